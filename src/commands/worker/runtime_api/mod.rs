//! Owns the Lambda Runtime API (2018-06-01): a function written for AWS Lambda is a warm worker without a change.
//!
//! A slot runs one program after the other, and serves the API to each on a port of its own. A lane is a place for one
//! event: it polls while the program has a call of `next` open, hands the run to that call, and turns what the program posts
//! into the reply. A program that takes several events at a time has several lanes.

mod answer;
mod concurrency;
mod event;
mod function;
mod function_error;
mod lane;
mod next_calls;
mod posted;
mod process;
mod request_id;
mod routes;
mod server;
mod slot;
mod trace;

pub(super) use concurrency::Concurrency;
pub(super) use function::Function;
pub(super) use lane::LaneOptions;
pub(super) use slot::RuntimeSlot;
