//! Owns what the targets share: naive models of correct behaviour, brokers, and connections to them.

pub mod answer;
pub mod head;
pub mod json;
pub mod records;
pub mod request;
pub mod served;
pub mod state;
