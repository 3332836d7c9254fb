//! Watches held open, a task each: one stream from its opening to its end, told in order into a bounded mailbox.
//!
//! A full mailbox holds the stream up (and so the server); nothing is dropped. A stream ends with exactly one of `Cut`, `Expired`,
//! `Refused`; before it a `Bookmark` tells the last version whose events were all told, if it is newer than the last one told.
//! The core opens anew; the back-off between openings is kept *here*, by server and path, so a core may ask at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::api::{Api, Notice, Shared};
use super::dial::STEP;
use super::http::{Fault, Method, Request, Taken};
use super::pool::{Link, Server};
use super::tally::Turn;
use crate::budget::{LARGE, WATCHES};
use crate::kube::call::Cluster;
use crate::kube::reply;
use crate::kube::stream::{Event, Lines, Unreadable};
use crate::kube::watch::{Told, Watch};

/// The server is asked to end a stream after this many seconds, and up to as many again.
const LIFE: u64 = 300;
/// A stream that is silent for longer is taken for dead; bookmarks come about once a minute.
const SILENCE: Duration = Duration::from_secs(150);
/// A stream on which something was told was a good one if it lived this long; a silent one if it lived the longer time.
const GOOD: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// The first and the longest delay before another attempt: an API server that is back after long is noticed soon.
const DELAY: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(8)];
/// So many lines in a row that are no events end a stream: whatever speaks there is no API server.
const GARBLED_MAX: u32 = 8;
/// The most of an error's body that is read, in bytes.
const ERROR_BODY: usize = 4096;

/// What is remembered of watches: tasks by ID, failures by server and path.
#[derive(Default)]
pub(super) struct Watches {
    open: Mutex<BTreeMap<u32, AbortHandle>>,
    failed: Mutex<BTreeMap<(Cluster, String), Failure>>,
    /// Whose last stream went on from a version and told nothing until it was taken for dead.
    silent: Mutex<BTreeSet<(Cluster, String)>>,
    /// Rung when failures were forgotten.
    forgiven: Notify,
}

#[derive(Clone, Copy)]
struct Failure {
    times: u32,
    /// The last one was an answer: the server is there.
    answered: bool,
    not_before: Instant,
}

/// How a stream ended.
enum End {
    Cut,
    Expired,
    Refused(String),
    Throttled(Duration),
    /// All connections to the server were dropped; nothing to be sorry for.
    Dropped,
    /// Nobody listens any more.
    Deaf,
}

/// What has been told so far.
#[derive(Default)]
struct Progress {
    any: bool,
    /// It ended because nothing came for longer than [`SILENCE`].
    silent: bool,
    version: Option<String>,
    bookmarked: Option<String>,
}

impl Api {
    /// Opens a watch and tells what happens on it into `mailbox` under `id`; an open watch of that ID is closed first. `read` makes
    /// the small view of an object, or says why it cannot.
    pub fn open_watch<V, R>(&self, id: u32, watch: Watch, read: R, mailbox: mpsc::Sender<(u32, Told<V>)>)
    where
        V: Send + 'static,
        R: Fn(&[u8]) -> Result<V, String> + Send + Sync + 'static,
    {
        let shared = self.0.clone();
        let mut open = self.0.watches.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, task| !task.is_finished());
        if let Some(old) = open.remove(&id) {
            old.abort();
        }
        let full = open.len() >= WATCHES;
        let task = tokio::spawn(async move {
            if full {
                let _ = mailbox.send((id, Told::Refused(format!("{WATCHES} watches are open, there is no room for more")))).await;
            } else {
                run(&shared, id, watch, read, mailbox).await;
            }
        });
        if !full {
            open.insert(id, task.abort_handle());
        }
    }

    /// Watches that are open, or wait to be.
    pub fn watches_open(&self) -> usize {
        self.0.watches.open.lock().unwrap_or_else(PoisonError::into_inner).values().filter(|task| !task.is_finished()).count()
    }

    /// Closes a watch without another word, but for what lies in the mailbox already.
    pub fn close_watch(&self, id: u32) {
        if let Some(task) = self.0.watches.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&id) {
            task.abort();
        }
    }
}

impl Watches {
    /// Forgets the failures at a server, so that its watches are opened at once, those that wait already too.
    pub(super) fn forgive(&self, cluster: Cluster) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).retain(|(on, _), _| *on != cluster);
        self.forgiven.notify_waiters();
    }

    /// Waits until the delay of this key is over or forgiven.
    async fn delay(&self, key: &(Cluster, String)) {
        loop {
            let forgiven = self.forgiven.notified();
            let Some(not_before) = self.not_before(key).filter(|at| *at > Instant::now()) else { return };
            tokio::select! {
                () = tokio::time::sleep_until(not_before) => {}
                () = forgiven => {}
            }
        }
    }

    fn not_before(&self, key: &(Cluster, String)) -> Option<Instant> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get(key).map(|f| f.not_before)
    }

    /// Notes a failure; `jitter` is 0..1000 and spreads the delay over half to one and a half of itself. The first refusal after silence begins
    /// anew: a server that has just started refuses what it will soon allow.
    fn failure(&self, key: (Cluster, String), answered: bool, at_least: Duration, jitter: u64) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.len() >= WATCHES && !failed.contains_key(&key) {
            failed.pop_first();
        }
        let failure = failed.entry(key).or_insert(Failure { times: 0, answered, not_before: Instant::now() });
        if answered && !failure.answered {
            failure.times = 0;
        }
        failure.answered = answered;
        let delay = DELAY[0].saturating_mul(1 << failure.times.min(10)).min(DELAY[1]).mul_f64(0.5 + jitter as f64 / 1000.0);
        failure.times = failure.times.saturating_add(1);
        failure.not_before = Instant::now() + delay.max(at_least);
    }

    /// The next attempt need not wait; what has failed so far is remembered.
    fn at_once(&self, key: &(Cluster, String)) {
        if let Some(failure) = self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_mut(key) {
            failure.not_before = Instant::now();
        }
    }

    /// Notes how a stream that went on from a version ended: with nothing told, by silence. True if the one before did too, and all must be listed: an API
    /// server whose data was put back from a backup accepts a version that it has not reached yet, and tells nothing until it has, bookmarks neither.
    /// Once alone is no sign of that: the path may have been cut just then.
    fn silent(&self, key: &(Cluster, String), silent: bool) -> bool {
        let mut all = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.remove(key);
        if silent && !before {
            if all.len() >= WATCHES {
                all.pop_first();
            }
            all.insert(key.clone());
        }
        silent && before
    }

    fn success(&self, key: &(Cluster, String)) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

async fn run<V, R>(shared: &Arc<Shared>, id: u32, watch: Watch, read: R, mailbox: mpsc::Sender<(u32, Told<V>)>)
where
    R: Fn(&[u8]) -> Result<V, String>,
{
    let key = (watch.on, watch.path.clone());
    shared.watches.delay(&key).await;
    let server = shared.server(watch.on);
    let mut progress = Progress { version: watch.from.clone(), bookmarked: watch.from.clone(), ..Progress::default() };
    let opened = Instant::now();
    let end = match &server {
        None => End::Cut,
        Some(server) => {
            let mut dropped = server.dropped.subscribe();
            tokio::select! {
                end = stream(shared, server, id, &watch, &read, &mailbox, &mut progress) => end,
                _ = dropped.changed() => End::Dropped,
            }
        }
    };
    // One that was cut before it could have told anything is no sign of either.
    let silent = progress.silent && !progress.any && watch.from.is_some();
    let end = if (silent || progress.any) && shared.watches.silent(&key, silent) { End::Expired } else { end };
    let turn = match &end {
        End::Cut | End::Deaf => Turn::Cut,
        End::Expired => Turn::Expired,
        End::Refused(_) => Turn::Refused,
        End::Throttled(_) => Turn::Throttled,
        End::Dropped => Turn::Dropped,
    };
    shared.tally.turned(watch.on, turn);
    let jitter = shared.roll(1000);
    let good = opened.elapsed() >= GOOD[usize::from(!progress.any)];
    match &end {
        End::Dropped => shared.watches.success(&key),
        End::Cut | End::Expired if good => shared.watches.success(&key),
        // It answered, and is asked for everything next.
        End::Expired if watch.from.is_some() => shared.watches.at_once(&key),
        End::Throttled(wait) => shared.watches.failure(key, true, *wait, jitter),
        End::Refused(_) => shared.watches.failure(key, true, Duration::from_secs(1), jitter),
        End::Cut | End::Expired => shared.watches.failure(key, false, Duration::ZERO, jitter),
        End::Deaf => return,
    }
    if progress.version != progress.bookmarked
        && let Some(version) = progress.version.filter(|_| !matches!(end, End::Expired))
    {
        let _ = mailbox.send((id, Told::Bookmark(version))).await;
    }
    let last = match end {
        End::Expired => Told::Expired,
        End::Refused(why) => Told::Refused(why),
        _ => Told::Cut,
    };
    let _ = mailbox.send((id, last)).await;
}

/// One stream from its opening to its end.
async fn stream<V, R>(
    shared: &Arc<Shared>,
    server: &Arc<Server>,
    id: u32,
    watch: &Watch,
    read: &R,
    mailbox: &mpsc::Sender<(u32, Told<V>)>,
    progress: &mut Progress,
) -> End
where
    R: Fn(&[u8]) -> Result<V, String>,
{
    let Some(target) = target(watch, LIFE + shared.roll(LIFE)) else { return End::Expired };
    let (mut link, mut response) = match open(server, &target).await {
        Ok(opened) => opened,
        Err(why) => {
            shared.tally.failed(watch.on, &why);
            return End::Cut;
        }
    };
    shared.tally.answered(watch.on, response.status, response.date);
    if response.status != 200 {
        return refusal(shared, watch.on, &mut link, &mut response).await;
    }
    shared.tally.turned(watch.on, if watch.from.is_some() { Turn::Resumed } else { Turn::Listed });
    let mut lines = Lines::new(watch.from.clone());
    let mut told = Vec::new();
    let mut garbled = 0;
    let mut large = None;
    loop {
        let taken = {
            let mut piece = [0; 4096];
            match link.take(&mut response, &mut piece) {
                Ok(Taken::Bytes(n)) => feed(&mut lines, &piece[..n], read, &mut told, &mut garbled).map_or(Ok(Taken::Bytes(n)), Err),
                Ok(other) => Ok(other),
                Err(_) => Err(End::Cut),
            }
        };
        progress.any |= !told.is_empty();
        for told in told.drain(..) {
            let bookmark = match &told {
                Told::Bookmark(v) | Told::Synced(v) => Some(v.clone()),
                _ => None,
            };
            if mailbox.send((id, told)).await.is_err() {
                return End::Deaf;
            }
            if bookmark.is_some() {
                progress.bookmarked.clone_from(&bookmark);
                progress.version = bookmark;
            }
        }
        if progress.version.as_deref() != lines.version() && lines.version().is_some() {
            progress.version = lines.version().map(str::to_owned);
        }
        match taken {
            Err(end) => return end,
            Ok(Taken::Bytes(_)) => {
                if lines.held() <= LARGE {
                    large = None;
                } else if large.is_none() {
                    large = shared.large.acquire().await.ok();
                }
            }
            Ok(Taken::Nothing) => {
                // Who holds up others must not be slow.
                let limit = if large.is_some() { STEP } else { SILENCE };
                if let Err(fault) = link.fill(&mut response, limit).await {
                    progress.silent = large.is_none() && matches!(fault, Fault::Slow(_));
                    return End::Cut;
                }
            }
            Ok(Taken::End) => {
                if response.leaves_reusable() {
                    Shared::put_back(server, link);
                }
                return End::Cut;
            }
        }
    }
}

/// Sends the request, on an idle connection if there is a good one; or says why not.
async fn open(server: &Arc<Server>, target: &str) -> Result<(Link, super::http::Response), String> {
    let (host, token) = server.credential();
    let request = Request { method: Method::Get, target, host: &host, bearer: token.as_deref(), body: None };
    if let Some(mut link) = server.take_idle() {
        match link.exchange(&request, STEP).await {
            Ok(response) => return Ok((link, response)),
            Err(Fault::Unanswered) => {}
            Err(fault) => return Err(fault.to_string()),
        }
    }
    let mut link = server.open().await?;
    let response = link.exchange(&request, STEP).await.map_err(|fault| fault.to_string())?;
    Ok((link, response))
}

async fn refusal(shared: &Shared, on: Cluster, link: &mut Link, response: &mut super::http::Response) -> End {
    let mut body = Vec::new();
    while body.len() < ERROR_BODY {
        let taken = {
            let mut piece = [0; 1024];
            let taken = link.take(response, &mut piece);
            if let Ok(Taken::Bytes(n)) = taken {
                body.extend_from_slice(&piece[..n]);
            }
            taken
        };
        match taken {
            Ok(Taken::Bytes(_)) => {}
            Ok(Taken::Nothing) if link.fill(response, STEP).await.is_ok() => {}
            _ => break,
        }
    }
    let status = response.status;
    let wait = |s: u64| Duration::from_secs(s.clamp(1, 60));
    match (status, response.retry_after) {
        (410, _) => End::Expired,
        (429, s) => End::Throttled(wait(s.unwrap_or(1))),
        (500..=599, Some(s)) => End::Throttled(wait(s)),
        (500..=599, None) => End::Cut,
        _ => {
            if status == 401 {
                shared.notice(Notice::Unauthorized(on));
            }
            End::Refused(format!("{status}: {}", reply::message(&body)))
        }
    }
}

/// The request's target; none if the version is no word, which no server can know.
fn target(watch: &Watch, life: u64) -> Option<String> {
    let mark = if watch.path.contains('?') { '&' } else { '?' };
    let start = match &watch.from {
        None => "sendInitialEvents=true&resourceVersionMatch=NotOlderThan".to_owned(),
        Some(version) if !version.is_empty() && version.bytes().all(|b| b.is_ascii_alphanumeric()) => format!("resourceVersion={version}"),
        Some(_) => return None,
    };
    Some(format!("{}{mark}watch=true&allowWatchBookmarks=true&timeoutSeconds={life}&{start}", watch.path))
}

/// Turns bytes into what is to be told; an end if the stream is over with them.
fn feed<V, R>(lines: &mut Lines, mut bytes: &[u8], read: &R, told: &mut Vec<Told<V>>, garbled: &mut u32) -> Option<End>
where
    R: Fn(&[u8]) -> Result<V, String>,
{
    let view = |json: &[u8], make: fn(V) -> Told<V>| match read(json) {
        Ok(view) => make(view),
        Err(why) => Told::Unreadable(crate::kube::object::metadata(json).ok().map(|m| m.name.into_owned()), why),
    };
    while !bytes.is_empty() {
        let (used, event) = lines.push(bytes);
        bytes = &bytes[used..];
        let Some(event) = event else { continue };
        if let Event::Unreadable { why: Unreadable::NotAnEvent, .. } = event {
            *garbled += 1;
            if *garbled >= GARBLED_MAX {
                return Some(End::Cut);
            }
        } else {
            *garbled = 0;
        }
        told.push(match event {
            Event::Added(json) | Event::Modified(json) => view(json, Told::Seen),
            Event::Deleted(json) => view(json, Told::Gone),
            Event::Bookmark { version, initial_end: true } => Told::Synced(version),
            Event::Bookmark { version, initial_end: false } => Told::Bookmark(version),
            Event::Failed { code: 410, .. } => return Some(End::Expired),
            Event::Failed { .. } => return Some(End::Cut),
            Event::Unreadable { name, why } => Told::Unreadable(name, why.to_string()),
        });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::OBJECT_MAX;
    use crate::shell::testing::{Fake, Then, api, chunked, response, serve};

    const ADDED: &str = "{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":\"a\",\"resourceVersion\":\"5\"}}}\n";
    const SYNCED: &str =
        "{\"type\":\"BOOKMARK\",\"object\":{\"metadata\":{\"resourceVersion\":\"7\",\"annotations\":{\"k8s.io/initial-events-end\":\"true\"}}}}\n";
    const GONE: &str = "{\"type\":\"DELETED\",\"object\":{\"metadata\":{\"name\":\"a\",\"resourceVersion\":\"9\"}}}\n";

    type Heard = mpsc::Receiver<(u32, Told<String>)>;

    /// The view of the tests: a name.
    fn name(json: &[u8]) -> Result<String, String> {
        crate::kube::object::metadata(json).map(|m| m.name.into_owned())
    }

    async fn watching(script: impl Fn(usize, &str) -> Then + Send + Sync + 'static, from: Option<&str>) -> (Api, Heard, Fake) {
        let fake = serve(script).await;
        let (api, _) = api();
        api.set_target(Cluster::Home, fake.target());
        let (mailbox, heard) = mpsc::channel(1);
        api.open_watch(3, watch(from), name, mailbox);
        (api, heard, fake)
    }

    fn watch(from: Option<&str>) -> Watch {
        Watch { on: Cluster::Home, path: "/api/v1/pods?labelSelector=x".into(), from: from.map(str::to_owned) }
    }

    /// All that is told until the stream ends.
    async fn story(heard: &mut Heard) -> Vec<Told<String>> {
        let mut told = Vec::new();
        while let Some((3, next)) = tokio::time::timeout(Duration::from_secs(8), heard.recv()).await.expect("told in time") {
            told.push(next);
        }
        told
    }

    fn seen(name: &str) -> Told<String> {
        Told::Seen(name.into())
    }

    #[test]
    fn only_two_silent_streams_in_a_row_that_went_on_are_a_reason_to_list() {
        let watches = Watches::default();
        let key = |path: &str| (Cluster::Home, path.to_owned());
        assert!(!watches.silent(&key("/a"), true));
        assert!(!watches.silent(&key("/b"), true), "each for itself");
        assert!(watches.silent(&key("/a"), true));
        assert!(!watches.silent(&key("/a"), true), "and from the beginning again");
        assert!(!watches.silent(&key("/a"), false), "something was told");
        assert!(!watches.silent(&key("/a"), true));
        for n in 0..2 * WATCHES {
            watches.silent(&key(&n.to_string()), true);
        }
        assert!(watches.silent.lock().expect("no panic").len() <= WATCHES);
    }

    #[tokio::test]
    async fn a_stream_is_told_in_order_and_can_be_resumed_where_it_ended() {
        let (_api, mut heard, fake) = watching(|_, _| Then::Send(chunked(&[ADDED, SYNCED, GONE], true)), None).await;
        let expected = [seen("a"), Told::Synced("7".into()), Told::Gone("a".into()), Told::Bookmark("9".into()), Told::Cut];
        assert_eq!(story(&mut heard).await, expected);
        let request = fake.heard().pop().expect("a request");
        for part in ["GET /api/v1/pods?labelSelector=x&watch=true&", "allowWatchBookmarks=true", "sendInitialEvents=true&resourceVersionMatch=NotOlderThan "] {
            assert!(request.contains(part), "{request}");
        }
    }

    #[tokio::test]
    async fn a_resumed_stream_asks_for_its_version_on_the_same_connection() {
        let (api, mut heard, fake) = watching(|_, _| Then::Send(chunked(&[GONE], true)), Some("8")).await;
        assert_eq!(story(&mut heard).await, [Told::Gone("a".into()), Told::Bookmark("9".into()), Told::Cut]);
        let (mailbox, mut heard) = mpsc::channel(1);
        api.open_watch(3, watch(Some("9")), name, mailbox);
        story(&mut heard).await;
        assert!(fake.heard()[0].contains("&resourceVersion=8 HTTP/1.1"));
        assert!(fake.heard()[1].contains("&resourceVersion=9 HTTP/1.1"));
        assert_eq!(fake.connections(), 1);
    }

    #[tokio::test]
    async fn a_stream_cut_inside_an_object_tells_what_was_whole() {
        let (_api, mut heard, _fake) = watching(|_, _| Then::Close(chunked(&[ADDED, SYNCED, &GONE[..20]], false)), None).await;
        assert_eq!(story(&mut heard).await, [seen("a"), Told::Synced("7".into()), Told::Cut]);
        let (_api, mut heard, _fake) = watching(|_, _| Then::Close(chunked(&[ADDED, &ADDED[..20]], false)), None).await;
        assert_eq!(story(&mut heard).await, [seen("a"), Told::Cut], "no version counts before the end of the initial objects");
    }

    #[tokio::test]
    async fn a_version_that_is_gone_is_expired_however_it_is_said() {
        let error = "{\"type\":\"ERROR\",\"object\":{\"kind\":\"Status\",\"code\":410,\"message\":\"too old\"}}\n";
        for answer in [response(410, "{}"), chunked(&[error], true), chunked(&[error], false)] {
            let (_api, mut heard, _fake) = watching(move |_, _| Then::Hang(answer.clone()), Some("1")).await;
            assert_eq!(story(&mut heard).await, [Told::Expired]);
        }
        let (_api, mut heard, fake) = watching(|_, _| Then::Hang(Vec::new()), Some("no version\r\n")).await;
        assert_eq!((story(&mut heard).await, fake.heard().len()), (vec![Told::Expired], 0));
    }

    #[tokio::test]
    async fn refusals_say_why_and_a_401_is_noticed() {
        for (status, reason) in [(401, "401: who"), (403, "403: who"), (404, "404: who")] {
            let fake = serve(move |_, _| Then::Send(response(status, "{\"message\":\"who\"}"))).await;
            let (api, mut notices) = api();
            api.set_target(Cluster::Home, fake.target());
            let (mailbox, mut heard) = mpsc::channel(1);
            api.open_watch(3, watch(None), name, mailbox);
            assert_eq!(story(&mut heard).await, [Told::Refused(reason.into())]);
            assert_eq!(notices.try_recv().is_ok(), status == 401);
        }
    }

    #[tokio::test]
    async fn retry_after_is_honoured_and_a_new_token_ends_the_wait() {
        let busy = b"HTTP/1.1 429 X\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n";
        let script = |n, _: &str| if n < 2 { Then::Send(busy.to_vec()) } else { Then::Send(chunked(&[ADDED], true)) };
        let (api, mut heard, _fake) = watching(script, None).await;
        assert_eq!(story(&mut heard).await, [Told::Cut]);
        let (mailbox, mut heard) = mpsc::channel(1);
        let asked = Instant::now();
        api.open_watch(3, watch(None), name, mailbox);
        assert_eq!(story(&mut heard).await, [Told::Cut]);
        assert!(asked.elapsed() >= Duration::from_millis(990), "{:?}", asked.elapsed());
        let (mailbox, mut heard) = mpsc::channel(1);
        let asked = Instant::now();
        api.open_watch(3, watch(None), name, mailbox);
        tokio::time::sleep(Duration::from_millis(50)).await;
        api.set_token(Cluster::Home, "new".into());
        assert_eq!(story(&mut heard).await, [seen("a"), Told::Cut]);
        assert!(asked.elapsed() < Duration::from_millis(900), "{:?}", asked.elapsed());
    }

    #[tokio::test]
    async fn after_an_expired_version_the_list_is_asked_for_at_once_however_long_the_server_was_away() {
        let script = |n, _: &str| match n {
            0..3 => Then::Close(Vec::new()),
            3 => Then::Send(response(410, "{}")),
            _ => Then::Send(chunked(&[ADDED], true)),
        };
        let (api, mut heard, _fake) = watching(script, Some("1")).await;
        assert_eq!(story(&mut heard).await, [Told::Cut]);
        for told in [Told::Cut, Told::Cut, Told::Expired] {
            let (mailbox, mut heard) = mpsc::channel(1);
            api.open_watch(3, watch(Some("1")), name, mailbox);
            assert_eq!(story(&mut heard).await, [told]);
        }
        let (mailbox, mut heard) = mpsc::channel(1);
        let asked = Instant::now();
        api.open_watch(3, watch(None), name, mailbox);
        assert_eq!(story(&mut heard).await, [seen("a"), Told::Cut]);
        assert!(asked.elapsed() < DELAY[0] / 2, "{:?}", asked.elapsed());
    }

    #[tokio::test]
    async fn a_server_that_refuses_after_silence_is_asked_again_soon() {
        let (watches, key) = (Watches::default(), (Cluster::Home, "/api/v1/pods".to_owned()));
        let wait = |times, answered, at_least| {
            for _ in 0..times {
                watches.failure(key.clone(), answered, at_least, 500);
            }
            watches.not_before(&key).map_or(Duration::ZERO, |at| at - Instant::now())
        };
        let second = Duration::from_secs(1);
        assert!(wait(10, false, Duration::ZERO) > 7 * second);
        assert!(wait(1, true, second) <= second);
        assert!(wait(10, true, second) > 7 * second, "while it goes on refusing, more and more seldom");
    }

    #[tokio::test]
    async fn an_object_of_two_megabytes_is_passed_over_by_name() {
        let script = |_, _: &str| {
            let big = format!("{{\"type\":\"ADDED\",\"object\":{{\"metadata\":{{\"name\":\"big\"}},\"x\":\"{}\"}}}}\n", "x".repeat(2 * OBJECT_MAX));
            let fair = format!("{{\"type\":\"ADDED\",\"object\":{{\"metadata\":{{\"name\":\"fair\"}},\"x\":\"{}\"}}}}\n", "x".repeat(OBJECT_MAX / 2));
            Then::Send(chunked(&[&big, &fair, ADDED, "not json\n", "{\"type\":\"ADDED\",\"object\":{\"metadata\":{}}}\n", SYNCED], true))
        };
        let (_api, mut heard, _fake) = watching(script, None).await;
        let told = story(&mut heard).await;
        assert!(matches!(&told[0], Told::Unreadable(Some(name), why) if name == "big" && why.contains("larger than 1048576")), "{:?}", told[0]);
        assert_eq!(told[1..3], [seen("fair"), seen("a")]);
        assert!(matches!(&told[3..], [Told::Unreadable(None, _), Told::Unreadable(None, _), Told::Synced(_), Told::Cut]), "{told:?}");
    }

    #[tokio::test]
    async fn a_server_that_talks_nonsense_is_left_and_not_asked_again_at_once() {
        let (api, mut heard, fake) = watching(|_, _| Then::Hang(chunked(&["nonsense\n"; 100], false)), None).await;
        assert_eq!(story(&mut heard).await.last(), Some(&Told::Cut));
        let (mailbox, mut heard) = mpsc::channel(1);
        let asked = Instant::now();
        api.open_watch(3, watch(None), name, mailbox);
        story(&mut heard).await;
        assert!(asked.elapsed() >= DELAY[0] / 2, "{:?}", asked.elapsed());
        assert_eq!(fake.heard().len(), 2);
    }

    #[tokio::test]
    async fn a_full_mailbox_holds_the_stream_up_and_loses_nothing() {
        let script = |_, _: &str| {
            let lines: Vec<String> =
                (0..3000).map(|n| format!("{{\"type\":\"ADDED\",\"object\":{{\"metadata\":{{\"name\":\"n{n}\",\"resourceVersion\":\"{n}\"}}}}}}\n")).collect();
            Then::Send(chunked(&lines.iter().map(String::as_str).collect::<Vec<_>>(), true))
        };
        let (_api, mut heard, _fake) = watching(script, Some("1")).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let told = story(&mut heard).await;
        assert_eq!(told.len(), 3002);
        assert!(told[..3000].iter().enumerate().all(|(n, told)| *told == seen(&format!("n{n}"))));
        assert_eq!(told[3000..], [Told::Bookmark("2999".into()), Told::Cut]);
    }

    #[tokio::test]
    async fn dropped_connections_cut_the_watch_and_it_opens_again_at_once() {
        let (api, mut heard, fake) = watching(|_, _| Then::Hang(chunked(&[ADDED, SYNCED, GONE], false)), None).await;
        assert_eq!(heard.recv().await, Some((3, seen("a"))));
        assert_eq!(heard.recv().await, Some((3, Told::Synced("7".into()))));
        assert_eq!(heard.recv().await, Some((3, Told::Gone("a".into()))));
        tokio::time::sleep(Duration::from_millis(20)).await;
        let asked = Instant::now();
        api.drop_connections(Cluster::Home);
        assert_eq!(story(&mut heard).await, [Told::Bookmark("9".into()), Told::Cut]);
        let (mailbox, mut heard) = mpsc::channel(4);
        api.open_watch(3, watch(Some("9")), name, mailbox);
        assert_eq!(heard.recv().await, Some((3, seen("a"))));
        assert!(asked.elapsed() < Duration::from_millis(200), "{:?}", asked.elapsed());
        assert_eq!(fake.connections(), 2);
        api.close_watch(3);
        while heard.recv().await.is_some() {}
    }

    #[tokio::test]
    async fn a_server_named_later_ends_the_wait() {
        let (api, _) = api();
        let (mailbox, mut heard) = mpsc::channel(1);
        api.open_watch(3, watch(None), name, mailbox);
        assert_eq!(story(&mut heard).await, [Told::Cut], "no server yet");
        let (mailbox, mut heard) = mpsc::channel(1);
        api.open_watch(3, watch(None), name, mailbox);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let asked = Instant::now();
        let fake = serve(|_, _| Then::Send(chunked(&[ADDED], true))).await;
        api.set_target(Cluster::Home, fake.target());
        assert_eq!(story(&mut heard).await, [seen("a"), Told::Cut]);
        assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
    }
}
