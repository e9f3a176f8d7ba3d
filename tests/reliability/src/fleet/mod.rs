//! Owns the fleets: controllers in processes of their own, which can be stopped and killed, and say what they receive.

mod controller;
mod crowd;
mod process;
mod word;

pub(crate) use crowd::{Crowd, Ear};
pub(crate) use process::{Options, run};
pub(crate) use word::{CONTROLLERS, Deed, Heard, Order, What, now};
