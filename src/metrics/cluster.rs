//! STUB
use crate::model::{ForwardOutcome, TakenOutcome};
use prometheus::{Gauge, IntGauge};
use std::time::Duration;
pub enum DropReason {
    ForeignVersion,
    Malformed,
    SlowConsumer,
    NotConnected,
}
pub struct ClusterMetrics {
    pub connected: IntGauge,
    pub brokers: IntGauge,
    pub directory_age: Gauge,
}
impl ClusterMetrics {
    pub fn forwarded(&self, _: ForwardOutcome, _: Duration) {}
    pub fn taken(&self, _: TakenOutcome) {}
    pub fn late_answer(&self) {}
    pub fn dropped(&self, _: DropReason) {}
    pub fn dropped_many(&self, _: DropReason, _: u64) {}
}
