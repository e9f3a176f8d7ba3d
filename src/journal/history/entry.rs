//! Owns what is added to a history.

use std::sync::Arc;

use crate::journal::record::{DispatchRecord, ReplyRecord};

/// What is added to a history.
#[derive(Debug, Clone)]
pub(super) enum HistoryEntry {
    /// A dispatch.
    Dispatch(Arc<DispatchRecord>),
    /// How the reply to a dispatch ended, which was added before.
    Reply(Arc<ReplyRecord>),
}
