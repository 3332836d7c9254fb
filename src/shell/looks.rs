//! Looking before answering: whoever asks for status, metrics or a diagnosis is told what is true now, not what was true a while ago.
//!
//! Peers that were not heard for a moment are asked for an echo, API servers that did not answer for a moment for `/livez`; the answer
//! is given as soon as all have answered, and after [`LIMIT`] in any case. While nobody asks, nothing is sent. Called by the driver,
//! which carries out the questions; this file keeps who waits, and for what.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::clock::Instant;
use crate::kube::call::Cluster;

/// The longest an asker waits.
pub(super) const LIMIT: Duration = Duration::from_millis(2500);
/// A peer heard, or a server that answered, within this is not asked.
pub(super) const FRESH: Duration = Duration::from_secs(1);
/// When what is unanswered is asked again.
const AGAIN: Duration = Duration::from_millis(600);

/// Who asks, and for what. There are at most as many as the doors let in.
pub(super) enum Asker {
    /// A status, on the local socket.
    Status(mpsc::Sender<String>),
    /// The metrics, on the local socket.
    Metrics(mpsc::Sender<String>),
    /// The metrics, on their port.
    Scrape(oneshot::Sender<String>),
}

/// A look that is under way.
pub(super) struct Looks {
    askers: Vec<Asker>,
    began: Option<Instant>,
    again: Instant,
    /// Sizes of packets are tried too.
    measuring: bool,
    /// Servers that were asked and have not answered, and since when.
    asked: Vec<(Cluster, Instant)>,
}

impl Looks {
    pub(super) fn new() -> Looks {
        Looks { askers: Vec::new(), began: None, again: Instant::default(), measuring: false, asked: Vec::new() }
    }

    /// Somebody asks. True if a look begins with it: peers and servers are to be asked.
    pub(super) fn ask(&mut self, asker: Asker, measure: bool, now: Instant) -> bool {
        self.askers.push(asker);
        let anew = self.began.is_none() || measure && !self.measuring;
        if anew {
            (self.began, self.again) = (Some(now), now + AGAIN);
            self.measuring |= measure;
        }
        anew
    }

    /// Since when the look is under way.
    pub(super) fn began(&self) -> Option<Instant> {
        self.began
    }

    pub(super) fn measuring(&self) -> bool {
        self.measuring
    }

    /// A server is to be asked; false if a question to it is still open.
    pub(super) fn question(&mut self, cluster: Cluster, now: Instant) -> bool {
        let open = self.asked.iter().any(|(asked, _)| *asked == cluster);
        if !open {
            self.asked.push((cluster, now));
        }
        !open
    }

    /// A server has answered, or could not be reached.
    pub(super) fn answered(&mut self, cluster: Cluster) {
        self.asked.retain(|(asked, _)| *asked != cluster);
    }

    /// Servers whose answer has been waited for long enough.
    pub(super) fn silent(&self, now: Instant) -> impl Iterator<Item = Cluster> + '_ {
        self.asked.iter().filter(move |(_, since)| now.since(*since) >= LIMIT).map(|(cluster, _)| *cluster)
    }

    /// Whether every server has answered.
    pub(super) fn servers_answered(&self) -> bool {
        self.asked.is_empty()
    }

    /// Whether what is unanswered is to be asked again now.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let due = self.began.is_some() && now >= self.again;
        if due {
            self.again = now + AGAIN;
        }
        due
    }

    /// Whether nobody is waited for any longer.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.began.is_some_and(|began| now.since(began) >= LIMIT)
    }

    /// Ends the look: who is to be answered.
    pub(super) fn end(&mut self) -> Vec<Asker> {
        (self.began, self.measuring) = (None, false);
        std::mem::take(&mut self.askers)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.began.map(|began| self.again.min(began + LIMIT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_boot(Duration::from_millis(10_000 + ms))
    }

    fn asker() -> Asker {
        Asker::Status(mpsc::channel(1).0)
    }

    #[test]
    fn all_who_ask_at_once_share_a_look_that_ends_in_time() {
        let mut looks = Looks::new();
        assert!(looks.ask(asker(), false, at(0)) && !looks.ask(asker(), false, at(100)));
        assert!(!looks.is_due(at(500)) && looks.is_due(at(600)) && !looks.is_due(at(700)));
        assert_eq!(looks.poll_timeout(), Some(at(1200)));
        assert!(!looks.is_over(at(2499)) && looks.is_over(at(2500)));
        assert_eq!(looks.end().len(), 2);
        assert_eq!((looks.poll_timeout(), looks.is_over(at(9000))), (None, false));
        assert!(looks.ask(asker(), false, at(3000)) && looks.ask(asker(), true, at(3100)), "who wants sizes begins a look of its own");
    }

    #[test]
    fn a_server_is_asked_one_question_at_a_time_and_is_silent_after_a_while() {
        let mut looks = Looks::new();
        assert!(looks.question(Cluster::Home, at(0)) && !looks.question(Cluster::Home, at(1000)));
        assert_eq!(looks.silent(at(2499)).count(), 0);
        assert_eq!(looks.silent(at(2500)).collect::<Vec<_>>(), [Cluster::Home]);
        looks.answered(Cluster::Home);
        assert!(looks.servers_answered() && looks.question(Cluster::Home, at(3000)));
    }
}
