//! Watch bytes to lines to events: one JSON object a line, as the API server streams them.
//!
//! `shell::watches` feeds whatever slices the network gives; cuts between slices may fall anywhere. An object is handed on as
//! raw JSON, borrowed from the slice where the line lies whole in it. A line longer than [`LINE_MAX`] is skipped to its end
//! without being held, and told by name if the name was seen. Nothing here waits, retries or knows a kind.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::budget::OBJECT_MAX;

/// The longest line held, in bytes: the largest object with its envelope. A longer one is [`Event::Unreadable`].
pub const LINE_MAX: usize = OBJECT_MAX + 256;
/// What the line buffer keeps between lines; a larger one is given back.
const KEPT: usize = 8 * 1024;
/// The longest name or version believed, in bytes.
const WORD_MAX: usize = 253;

/// One event of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// ADDED: the object's JSON.
    Added(&'a [u8]),
    /// MODIFIED: the object's JSON.
    Modified(&'a [u8]),
    /// DELETED: the JSON of the object's last state.
    Deleted(&'a [u8]),
    /// BOOKMARK: the stream has come to this version.
    Bookmark {
        /// The resourceVersion.
        version: String,
        /// Whether all initial objects have now been sent (annotation `k8s.io/initial-events-end`).
        initial_end: bool,
    },
    /// ERROR: the Status object's code and message; the API server closes the stream after it.
    Failed {
        /// HTTP status; 410 means that the version asked for is gone.
        code: u16,
        /// At most 512 bytes.
        message: String,
    },
    /// A line that is no event, or is too long. The stream goes on behind it.
    Unreadable {
        /// The object's `metadata.name`, if it could be seen.
        name: Option<String>,
        /// What is wrong with the line.
        why: Unreadable,
    },
}

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Longer than [`LINE_MAX`].
    TooLong,
    /// Not a JSON object with `type` and `object`, or of a type that is not known.
    NotAnEvent,
    /// The object has no readable metadata.
    NoMetadata,
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unreadable::TooLong => write!(f, "the object is larger than {OBJECT_MAX} bytes"),
            Unreadable::NotAnEvent => f.write_str("the line is no watch event"),
            Unreadable::NoMetadata => f.write_str("the object has no readable metadata"),
        }
    }
}

/// The state between slices: the unfinished line and the last version seen.
#[derive(Debug)]
pub struct Lines {
    held: Vec<u8>,
    /// The held line has been handed out and goes at the next push.
    spent: bool,
    /// The name found in a line that is being skipped.
    skipping: Option<Option<String>>,
    /// Initial objects come in no order of version, so none counts before their end.
    ordered: bool,
    version: Option<String>,
}

impl Lines {
    /// A stream that resumes after version `from`, or one that begins with the initial objects.
    pub fn new(from: Option<String>) -> Lines {
        Lines { held: Vec::new(), spent: false, skipping: None, ordered: from.is_some(), version: from }
    }

    /// Takes bytes up to the end of the first line in `input`. Returns how many were taken and the event of a line that ended;
    /// to be called again with the rest until nothing is left. Passed over: empty lines, and bookmarks before the initial objects
    /// are all told, from which one could not resume.
    pub fn push<'a>(&'a mut self, input: &'a [u8]) -> (usize, Option<Event<'a>>) {
        self.let_go();
        let (part, used, ended) = match input.iter().position(|&b| b == b'\n') {
            Some(at) => (&input[..at], at + 1, true),
            None => (input, input.len(), false),
        };
        if self.skipping.is_none() && self.held.len() + part.len() > LINE_MAX {
            // The head of an object holds its metadata as a rule.
            let room = LINE_MAX - self.held.len().min(LINE_MAX);
            self.held.extend_from_slice(&part[..part.len().min(room)]);
            if let Some(version) = word(&self.held, "resourceVersion").filter(|_| self.ordered) {
                self.version = Some(version);
            }
            self.skipping = Some(word(&self.held, "name"));
            self.held = Vec::new();
        }
        if self.skipping.is_some() {
            let name = if ended { self.skipping.take() } else { None };
            return (used, name.map(|name| Event::Unreadable { name, why: Unreadable::TooLong }));
        }
        if !ended {
            self.held.extend_from_slice(part);
            return (used, None);
        }
        let line = if self.held.is_empty() {
            part
        } else {
            self.held.extend_from_slice(part);
            self.spent = true;
            self.held.as_slice()
        };
        if line.iter().all(u8::is_ascii_whitespace) {
            return (used, None);
        }
        let (event, version) = read(line);
        if let Event::Bookmark { initial_end: true, .. } = event {
            self.ordered = true;
        }
        if matches!(event, Event::Bookmark { .. }) && !self.ordered {
            return (used, None);
        }
        if self.ordered && version.is_some() {
            self.version = version;
        }
        (used, Some(event))
    }

    /// The version of the last event, from which the stream may be resumed; none while the initial objects are not all told.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref().filter(|_| self.ordered)
    }

    /// Bytes of an unfinished line that are held; also says whether a stream that ends now was cut inside an object.
    pub fn held(&self) -> usize {
        if self.spent { 0 } else { self.held.len() }
    }

    fn let_go(&mut self) {
        if self.spent {
            self.spent = false;
            self.held.clear();
            self.held.shrink_to(KEPT);
        }
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
}

#[derive(Deserialize)]
struct Metadata<'a> {
    #[serde(borrow, rename = "resourceVersion")]
    version: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct BookmarkHead<'a> {
    #[serde(borrow)]
    metadata: BookmarkMetadata<'a>,
}

#[derive(Deserialize)]
struct BookmarkMetadata<'a> {
    #[serde(rename = "resourceVersion")]
    version: String,
    #[serde(borrow, default)]
    annotations: Option<Marks<'a>>,
}

#[derive(Deserialize)]
struct Marks<'a> {
    #[serde(borrow, rename = "k8s.io/initial-events-end")]
    initial_end: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Status {
    code: Option<u16>,
}

/// Reads one whole line; the version is the event's, if it has one.
fn read(line: &[u8]) -> (Event<'_>, Option<String>) {
    let unreadable = |why| (Event::Unreadable { name: word(line, "name"), why }, None);
    let Ok(Envelope { kind, object }) = serde_json::from_slice::<Envelope<'_>>(line) else {
        return unreadable(Unreadable::NotAnEvent);
    };
    let json = object.get().as_bytes();
    match &*kind {
        "BOOKMARK" => match serde_json::from_slice::<BookmarkHead<'_>>(json) {
            Ok(BookmarkHead { metadata }) if !metadata.version.is_empty() && metadata.version.len() <= WORD_MAX => {
                let initial_end = metadata.annotations.and_then(|m| m.initial_end).is_some_and(|v| v == "true");
                (Event::Bookmark { version: metadata.version.clone(), initial_end }, Some(metadata.version))
            }
            _ => unreadable(Unreadable::NoMetadata),
        },
        "ERROR" => {
            let code = serde_json::from_slice::<Status>(json).ok().and_then(|s| s.code).unwrap_or(0);
            (Event::Failed { code, message: super::reply::message(json) }, None)
        }
        "ADDED" | "MODIFIED" | "DELETED" => {
            let Ok(Head { metadata }) = serde_json::from_slice::<Head<'_>>(json) else {
                return unreadable(Unreadable::NoMetadata);
            };
            let event = match &*kind {
                "ADDED" => Event::Added(json),
                "MODIFIED" => Event::Modified(json),
                _ => Event::Deleted(json),
            };
            (event, metadata.version.filter(|v| !v.is_empty() && v.len() <= WORD_MAX).map(Cow::into_owned))
        }
        _ => unreadable(Unreadable::NotAnEvent),
    }
}

/// Looks for `object.metadata.KEY` in the head of a line that cannot be parsed, by following braces and strings alone.
fn word(head: &[u8], key: &str) -> Option<String> {
    let path: [&[u8]; 3] = [b"object", b"metadata", key.as_bytes()];
    let (mut depth, mut matched, mut at) = (0usize, 0usize, 0usize);
    while at < head.len() {
        match head[at] {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                matched = matched.min(depth);
            }
            b'"' => {
                let end = string_end(head, at + 1)?;
                let text = &head[at + 1..end];
                let value = head[end + 1..].iter().position(|b| !b.is_ascii_whitespace()).map(|n| end + 1 + n)?;
                if head[value] == b':' && depth == matched + 1 && matched < 3 && text == path[matched] {
                    if matched < 2 {
                        matched += 1;
                        at = value;
                    } else {
                        let open = head[value + 1..].iter().position(|b| !b.is_ascii_whitespace()).map(|n| value + 1 + n)?;
                        let end = (head[open] == b'"').then(|| string_end(head, open + 1)).flatten()?;
                        let found = std::str::from_utf8(&head[open + 1..end]).ok()?;
                        let plain = found.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_' | b':'));
                        return (plain && !found.is_empty() && found.len() <= WORD_MAX).then(|| found.to_owned());
                    }
                } else {
                    at = end;
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// Where the string that begins at `from` ends: the index of its closing quote.
fn string_end(text: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        match *text.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `stream` in slices of `step` bytes and writes down what comes out.
    fn story(lines: &mut Lines, stream: &[u8], step: usize) -> Vec<String> {
        let mut out = Vec::new();
        for slice in stream.chunks(step) {
            let mut rest = slice;
            while !rest.is_empty() {
                let (used, event) = lines.push(rest);
                if let Some(event) = event {
                    out.push(told(&event));
                }
                rest = &rest[used..];
            }
        }
        out
    }

    fn told(event: &Event<'_>) -> String {
        let text = |json: &[u8]| String::from_utf8_lossy(json).chars().take(40).collect::<String>();
        match event {
            Event::Added(json) => format!("added {}", text(json)),
            Event::Modified(json) => format!("modified {}", text(json)),
            Event::Deleted(json) => format!("deleted {}", text(json)),
            Event::Bookmark { version, initial_end } => format!("bookmark {version} {initial_end}"),
            Event::Failed { code, message } => format!("failed {code} {message}"),
            Event::Unreadable { name, why } => format!("unreadable {name:?} {why}"),
        }
    }

    const STREAM: &str = concat!(
        r#"{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"7"}}}"#,
        "\n\n",
        r#"{"type":"BOOKMARK","object":{"kind":"Pod","metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}}}"#,
        "\r\n",
        r#"{"object":{"metadata":{"resourceVersion":"10","name":"a"}},"type":"MODIFIED"}"#,
        "\n",
        r#"{"type":"DELETED","object":{"metadata":{"name":"a","resourceVersion":"11"}}}"#,
        "\n",
        r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"12"}}}"#,
        "\n",
        r#"{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old resource version: 1 (2)"}}"#,
        "\n",
    );

    #[test]
    fn events_are_the_same_wherever_the_slices_are_cut() {
        let expected = [
            r#"added {"metadata":{"name":"a","resourceVersion""#,
            "bookmark 9 true",
            r#"modified {"metadata":{"resourceVersion":"10","nam"#,
            r#"deleted {"metadata":{"name":"a","resourceVersion""#,
            "bookmark 12 false",
            "failed 410 too old resource version: 1 (2)",
        ];
        for step in 1..STREAM.len() {
            let mut lines = Lines::new(None);
            let heard = story(&mut lines, STREAM.as_bytes(), step);
            assert_eq!(heard.len(), expected.len());
            for (heard, expected) in heard.iter().zip(expected) {
                assert!(heard.starts_with(&expected[..expected.len().min(45)]), "{heard} is not {expected} at step {step}");
            }
            assert_eq!(lines.version(), Some("12"));
            assert_eq!(lines.held(), 0);
        }
    }

    #[test]
    fn no_version_counts_before_the_initial_objects_are_told() {
        let mut lines = Lines::new(None);
        let (first, rest) = STREAM.split_at(STREAM.find("\n\n").unwrap_or(0) + 1);
        story(&mut lines, first.as_bytes(), 16);
        assert_eq!(lines.version(), None);
        story(&mut lines, rest.as_bytes(), 16);
        assert_eq!(lines.version(), Some("12"));
    }

    #[test]
    fn a_resumed_stream_has_a_version_from_the_start() {
        let mut lines = Lines::new(Some("5".into()));
        assert_eq!(lines.version(), Some("5"));
        story(&mut lines, STREAM.as_bytes(), 100);
        assert_eq!(lines.version(), Some("12"));
    }

    #[test]
    fn a_stream_cut_inside_an_object_says_so() {
        let mut lines = Lines::new(None);
        story(&mut lines, &STREAM.as_bytes()[..30], 7);
        assert_eq!(lines.held(), 30);
    }

    #[test]
    fn an_object_of_two_megabytes_is_passed_over_by_name_and_not_held() {
        let mut lines = Lines::new(Some("1".into()));
        let blob = "x".repeat(2 << 20);
        let big = format!(
            r#"{{"type":"ADDED","object":{{"kind":"ConfigMap","metadata":{{"annotations":{{"name":"no\"t"}},"name":"huge","resourceVersion":"33"}},"data":{{"name":"{blob}"}}}}}}"#
        );
        let stream = format!("{big}\n{STREAM}");
        for step in [1000, 8192, stream.len()] {
            let mut most = 0;
            let mut out = Vec::new();
            for slice in stream.as_bytes().chunks(step) {
                let mut rest = slice;
                while !rest.is_empty() {
                    let (used, event) = lines.push(rest);
                    out.extend(event.as_ref().map(told));
                    rest = &rest[used..];
                    most = most.max(lines.held.capacity());
                }
            }
            assert_eq!(out[0], r#"unreadable Some("huge") the object is larger than 1048576 bytes"#);
            assert_eq!(out.len(), 7);
            assert!(most <= 2 * LINE_MAX, "{most}");
            assert!(lines.held.capacity() <= KEPT);
        }
    }

    #[test]
    fn garbage_is_unreadable_and_the_stream_goes_on() {
        for line in [
            "<html>",
            "{}",
            "[]",
            "null",
            "\u{0}\u{1}",
            r#"{"type":"ADDED"}"#,
            r#"{"type":"ADDED","object":7}"#,
            r#"{"type":"ADDED","object":{}}"#,
            r#"{"type":"NEWS","object":{}}"#,
            r#"{"type":"BOOKMARK","object":{"metadata":{}}}"#,
            r#"{"type":"ADDED","object":{"metadata":{"name":"a"}}"#,
        ] {
            let mut lines = Lines::new(None);
            let heard = story(&mut lines, format!("{line}\n{STREAM}").as_bytes(), 11);
            assert!(heard[0].starts_with("unreadable"), "{line}: {}", heard[0]);
            assert_eq!(heard.len(), 7, "{line}");
        }
        let deep = format!(r#"{{"type":"ADDED","object":{{"metadata":{{"name":"deep"}},"x":{}"#, "[".repeat(200_000));
        let heard = story(&mut Lines::new(None), format!("{deep}\n").as_bytes(), 4096);
        assert_eq!(heard, [r#"unreadable Some("deep") the line is no watch event"#]);
    }

    #[test]
    fn invalid_utf8_is_unreadable() {
        let mut lines = Lines::new(None);
        let (_, event) = lines.push(b"{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":\"b\"},\"x\":\"\xff\"}}\n");
        assert_eq!(event, Some(Event::Unreadable { name: Some("b".into()), why: Unreadable::NotAnEvent }));
    }

    #[test]
    fn the_scan_finds_only_the_name_of_the_object_itself() {
        for (head, name) in [
            (r#"{"type":"ADDED","object":{"spec":{"metadata":{"name":"inner"}},"metadata":{"labels":{"name":"l"},"name":"outer""#, Some("outer")),
            (r#"{"name":"x","object":{"name":"y","metadata":{"namespace":"z""#, None),
            (r#"{"object" : { "metadata" : { "name" : "spaced" "#, Some("spaced")),
            (r#"{"object":{"metadata":{"name":"bad name""#, None),
            (r#"{"object":{"metadata":{"name":7"#, None),
            (r#"}}}"#, None),
            (r#""""#, None),
            ("{\"object\\", None),
        ] {
            assert_eq!(word(head.as_bytes(), "name").as_deref(), name, "{head}");
        }
    }
}
