//! Has a message judged, when it arrives and again when it is released: small ones where they are, large ones
//! on a bounded pool. Whatever goes wrong in here is an error, never an unscanned send (spec R142).

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::Semaphore;

use crate::bundle::document::{EnhancedCode, ObjectId};
use crate::gateway::budget::Budgets;
use crate::gateway::decisions::{Decisions, Judged, Occasion};
use crate::gateway::live::Running;
use crate::mail::envelope::Envelope;
use crate::policy::verdict::{Deferral, Disposition, Spam, Verdict};
use crate::policy::{Decision, Fuel, Transaction, decide};
use crate::spool::{Content, Facts};

/// Content up to this size is judged where it was read; larger ones on the bounded pool, so that a big
/// message never holds up the small ones of other sessions.
const INLINE: usize = 64 << 10;
/// The same without rules, when nobody looks beyond the header section.
const INLINE_UNREAD: usize = 2 << 20;
/// Content above this size is judged from a part of the budget of its own.
const LARGE: usize = 1 << 20;

/// Cheap to clone; clones share one pool.
#[derive(Clone)]
pub struct Judge {
    budgets: Budgets,
    /// Threads that judge large messages at the same time.
    pool: Arc<Semaphore>,
    /// Told of each decision.
    decisions: Decisions,
}

/// One message to be judged.
#[derive(Clone)]
pub struct Case {
    /// Ends every policy reply.
    pub id: String,
    pub envelope: Envelope,
    pub facts: Facts,
    /// Rules that do not judge it.
    pub except: Vec<ObjectId>,
    /// When it came.
    pub now: Timestamp,
    pub occasion: Occasion,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unjudged {
    #[error("too many messages at once, try again later")]
    NoMemory,
    #[error("policy evaluation unavailable, try again later")]
    Failed,
}

impl Judge {
    pub fn new(budgets: Budgets, decisions: Decisions) -> Self {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        Self { budgets, pool: Arc::new(Semaphore::new(threads)), decisions }
    }

    pub async fn judge(
        &self,
        running: &Arc<Running>,
        case: Case,
        content: &Content,
    ) -> Result<Decision, Unjudged> {
        let received = usize::try_from(case.facts.received).map_err(|_| Unjudged::Failed)?;
        let size = content.bytes().len().checked_sub(received).ok_or(Unjudged::Failed)?;
        let case = Arc::new(case);
        let work = {
            let (running, content) = (Arc::clone(running), content.clone());
            let (case, decisions) = (Arc::clone(&case), self.decisions.clone());
            move || {
                let (transaction, content) = (case.transaction(), &content.bytes()[received..]);
                let decision = decide(&running.policy, &transaction, content, Fuel::default());
                decisions.note(&case.judged(&running, &transaction, &decision, content));
                decision
            }
        };
        let failed = || {
            self.note_failure(running, &case, &content.bytes()[received..]);
            Unjudged::Failed
        };
        let inline = if running.policy.has_rules() { INLINE } else { INLINE_UNREAD };
        if size <= inline {
            return std::panic::catch_unwind(AssertUnwindSafe(work)).map_err(|_| failed());
        }
        // Reading a large message needs room for its decoded text.
        let budget = if size > LARGE { &self.budgets.large } else { &self.budgets.reception };
        let _share = budget.take(2 * size as u64).await.ok_or(Unjudged::NoMemory)?;
        let _turn = self.pool.acquire().await.map_err(|_| Unjudged::Failed)?;
        tokio::task::spawn_blocking(work).await.map_err(|_| failed())
    }

    /// The engine failed: every recipient waits, and the reference in the reply leads to this.
    fn note_failure(&self, running: &Running, case: &Case, content: &[u8]) {
        let deferral = Deferral { code: EnhancedCode([4, 7, 1]), text: failure(&case.id), object: None };
        let verdict = Verdict::new(Disposition::Defer(deferral));
        let verdicts = vec![verdict; case.envelope.recipients.len()];
        let decision = Decision { verdicts, ..Decision::default() };
        self.decisions.note(&case.judged(running, &case.transaction(), &decision, content));
    }
}

impl Case {
    fn transaction(&self) -> Transaction<'_> {
        let Facts { client, tls, authenticated, spam, phishy, blatant, received: _, identity } = &self.facts;
        Transaction {
            client: *client,
            tls: *tls,
            now: self.now,
            authenticated,
            identity: identity.as_ref(),
            spam: Spam { spam: *spam, phishy: *phishy, blatant: *blatant },
            except: &self.except,
            ..Transaction::new(&self.id, &self.envelope)
        }
    }

    fn judged<'a>(
        &self,
        running: &'a Running,
        transaction: &'a Transaction<'a>,
        decision: &'a Decision,
        content: &'a [u8],
    ) -> Judged<'a> {
        Judged {
            bundle: &running.bundle,
            revision: &running.revision,
            routes: &running.routes,
            transaction,
            decision,
            content,
            occasion: self.occasion,
        }
    }
}

/// What a client is told when the engine failed (spec R142).
pub fn failure(id: &str) -> String {
    format!("Policy evaluation unavailable, try again later (ref: {id})")
}
