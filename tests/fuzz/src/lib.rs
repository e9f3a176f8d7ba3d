//! Owns what the targets share: naive models that say what is right, brokers to ask, and connections to them.

pub mod answer;
pub mod front;
pub mod head;
pub mod json;
pub mod records;
pub mod request;
pub mod served;
