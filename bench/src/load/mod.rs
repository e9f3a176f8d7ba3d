//! Owns the load: what it consists of, what is counted, and the ways to put it on a server.

mod churn;
mod closed;
mod controller;
mod figures;
mod hold;
mod open;
mod shape;
mod tally;

pub(crate) use churn::{Churned, churn};
pub(crate) use closed::{dispatch, go_on, health};
pub(crate) use figures::{Figures, middle};
pub(crate) use hold::{Crowd, Held, crowd, hold, keep};
pub(crate) use open::open;
pub(crate) use shape::Shape;
