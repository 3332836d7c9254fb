//! Any bytes as a watch stream: no panic, bounded memory, and the same events wherever the slices are cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice::kube::object::metadata;
use sluice::kube::stream::{Event, LINE_MAX, Lines};

fn story(stream: &[u8], step: usize) -> (Vec<String>, Option<String>) {
    let mut lines = Lines::new(None);
    let mut told = Vec::new();
    for slice in stream.chunks(step) {
        let mut rest = slice;
        while !rest.is_empty() {
            let (used, event) = lines.push(rest);
            assert!(used > 0 && used <= rest.len());
            rest = &rest[used..];
            if let Some(event) = event {
                if let Event::Added(json) | Event::Modified(json) | Event::Deleted(json) = event
                    && let Ok(object) = metadata(json)
                {
                    let _ = (object.label("app"), object.annotation("k8s.io/initial-events-end"));
                }
                told.push(format!("{event:?}"));
            }
        }
        assert!(lines.held() <= LINE_MAX);
    }
    (told, lines.version().map(str::to_owned))
}

fuzz_target!(|input: &[u8]| {
    if let Some((&step, stream)) = input.split_first() {
        assert_eq!(story(stream, usize::from(step) + 1), story(stream, stream.len().max(1)));
    }
});
