//! Owns where a worker posts the reply to a run, and whether it has begun to.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use super::run_path::run_path;

/// Where the worker that gets an offer posts its reply. One that has opened its reply has the run, however the rest of the offer goes.
#[derive(Debug)]
pub struct ReplyTarget {
    path: Box<str>,
    is_open: AtomicBool,
    opened: Notify,
}

impl ReplyTarget {
    /// Of an offer of this run with this token.
    pub fn new(run: &[u8], token: impl Display) -> Self {
        Self::at(run_path(run, "reply", token).into())
    }

    /// At this path, which another broker has made.
    pub fn at(path: Box<str>) -> Self {
        Self { path, is_open: AtomicBool::new(false), opened: Notify::new() }
    }

    /// The path with its query.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// A worker has opened its reply with this offer's token.
    pub fn open(&self) {
        self.is_open.store(true, Ordering::Release);
        self.opened.notify_one();
    }

    /// Whether a worker has opened its reply.
    pub(super) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    /// Returns once a worker has opened its reply.
    pub(super) async fn opened(&self) {
        while !self.is_open() {
            self.opened.notified().await;
        }
    }
}

/// Returns once a worker has opened the reply at this target; never without one.
pub(super) async fn opened(target: Option<&ReplyTarget>) {
    match target {
        Some(target) => target.opened().await,
        None => std::future::pending().await,
    }
}
