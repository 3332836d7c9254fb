//! The virtual node: home pods to a provider and their status back, what they need beside them, and the provider's side of the same. Pure.
//!
//! [`Agent`] is all the edge sees; [`read`] is called by whoever carries out watches. Inside: `route` turns what is seen into rows and facts, `reflect` is
//! the one loop (plan, call, settle), `table` the rows, `watch` the watches, `denials` counts what is refused; `node`, `namespace`, `twin` and the files in `kinds` each decide one thing.
//! A provider is told of other providers' pods that our slices name, under addresses of our transit range: `transit` allots them and is what the gateway lets in.
//! One closed enum of views and one table serve all kinds: with a reflector a kind there were eight due queues to be fair between and the same code thrice.

mod agent;
mod calls;
mod denials;
mod facts;
#[cfg(test)]
mod journeys;
mod kind;
mod kinds;
mod namespace;
mod node;
mod offer;
pub mod ownership;
mod reflect;
mod report;
mod route;
mod space;
mod table;
mod transit;
mod twin;
mod watch;

pub use agent::{Agent, AgentSpec, ConsumerSpec, Event, How, ProviderSpec};
pub use kind::{KindId, Seen, Uid, read};
pub use offer::Amount;
pub use report::{NamespaceReport, Report};
pub use watch::{Order, WatchId};
