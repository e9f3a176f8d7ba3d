//! Owns the fleets: controllers in processes of their own, which can be stopped and killed, and say what they receive.

mod context;
mod controller;
mod crowd;
mod options;
mod process;
mod word;

pub(crate) use crowd::{Crowd, Ear};
pub(crate) use options::Options;
pub(crate) use process::run;
pub(crate) use word::{CONTROLLERS, Deed, Heard, Order, What, now};
