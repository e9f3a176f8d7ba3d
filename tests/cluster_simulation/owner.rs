//! Owns what a simulated broker does with the messages of others: it takes their forwards in, and answers their questions.

use std::time::Duration;

use pilotlight::broker::PayloadKind;
use pilotlight::cluster::codec::{Answer, BrokerId, Direct, EarlierEnd, Forward, NotTaken, decode, encode};
use pilotlight::cluster::forward::time_left;
use pilotlight::dispatch::DeliveryPolicy;
use pilotlight::model::Proof;

use crate::delivery::{Memory, Run, State, Taken, micros};
use crate::network::{Message, Subject};
use crate::world::{Event, World};

impl World {
    pub fn answer(&mut self, node: usize, (id, token): (BrokerId, u128), answer: &Answer<'_>) {
        let bytes = encode(answer, &[]);
        self.publish(node, Message { subject: Subject::Re(id, token), reply: None, bytes });
    }

    /// A message to this broker has arrived.
    pub fn take_in(&mut self, node: usize, reply: (BrokerId, u128), bytes: &[u8]) {
        match decode::<Direct<'_>>(bytes) {
            Ok((Direct::Forward(forward), payload)) => self.take_forward(node, reply, &forward, payload),
            Ok((Direct::Payload { token }, payload)) => self.payload_came(node, token, payload),
            Ok((Direct::Earlier { run, within, .. }, _)) => {
                let run = u32::try_from(u128::from_be_bytes(run.bytes())).expect("a run of the simulation");
                if let Some(Memory::Running(_)) = self.nodes[node].memory.get(&run) {
                    self.nodes[node].questions.push((run, reply));
                    self.at(within, Event::QuestionEnd { node, run, reply });
                } else {
                    self.question_ended(node, run, reply);
                }
            }
            Ok((Direct::Operator(_), _)) => {}
            Err(error) => self.oracle.fail(format!("a message is unreadable: {error}")),
        }
    }

    /// A question about a run that is still being delivered has taken as long as it may.
    pub fn question_end(&mut self, node: usize, run: u32, reply: (BrokerId, u128)) {
        let questions = &mut self.nodes[node].questions;
        let before = questions.len();
        questions.retain(|question| *question != (run, reply));
        if questions.len() < before {
            self.answer(node, reply, &Answer::Earlier(None));
        }
    }

    pub fn question_ended(&mut self, node: usize, run: u32, reply: (BrokerId, u128)) {
        let end = match self.nodes[node].memory.get(&run) {
            Some(Memory::Done(Ok(()))) => Some(EarlierEnd::Delivered { proof: 0, offers: 1, controller: "" }),
            Some(Memory::Done(Err(_))) => Some(EarlierEnd::Unknown { offers: 1 }),
            Some(Memory::Running(_)) | None => None,
        };
        self.answer(node, reply, &Answer::Earlier(end));
    }

    fn take_forward(&mut self, node: usize, reply: (BrokerId, u128), forward: &Forward<'_>, payload: &[u8]) {
        let in_progress =
            self.nodes[node].deliveries.values().filter(|found| found.forwarded.is_some()).count();
        if in_progress >= self.max_forwards {
            return self.answer(node, reply, &Answer::NotTaken(NotTaken::Overloaded));
        }
        let now = self.local(node);
        let proof = Proof::ALL[usize::from(forward.proof)];
        let policy = DeliveryPolicy::new(proof, forward.redeliver).resumed(forward.unproven);
        let mut age = self.nodes[node].member.directory.age(forward.from, forward.sent, now);
        if self.bugs.ignores_age {
            age = Some(Duration::ZERO);
        }
        self.note(|| format!("broker {node}: forward of POST {}, age {age:?}", self.oracle.post_of(reply.1)));
        let left = match time_left(forward, &policy, age) {
            Ok(left) => left,
            Err(why) => return self.answer(node, reply, &Answer::NotTaken(why)),
        };
        let pool = self.pools.iter().position(|(_, digest)| digest.key == forward.pool);
        let post = self.oracle.post_of(reply.1);
        if !forward.is_payload_later {
            self.oracle.check_payload(post, payload);
        }
        let run = Run {
            post,
            number: forward.run.parse().expect("runs have numbers"),
            pool: pool.expect("only these pools exist"),
            kind: PayloadKind::ALL[usize::from(forward.payload_kind)],
            is_named: forward.idempotency_key.is_some(),
            redeliver: forward.redeliver,
            is_payload_later: forward.is_payload_later,
        };
        let deadline = self.now + micros(left.verdict);
        let read_timeout = Duration::from_micros(forward.read_timeout);
        let reserve = micros(policy.proof_reserve(read_timeout, Duration::from_micros(forward.budget)));
        let taken = Taken {
            reply,
            claim_by: self.now + micros(left.claim),
            is_claimed_sent: false,
            verdicts: Vec::new(),
        };
        self.begin(node, run, policy, (deadline, deadline.saturating_sub(reserve), 0), Some(taken));
    }

    fn payload_came(&mut self, node: usize, token: u128, payload: &[u8]) {
        let Some(&id) = self.nodes[node].taken.get(&token) else { return };
        let Some(delivery) = self.nodes[node].deliveries.get(&id) else { return };
        let State::Payload { poll } = delivery.state else { return };
        self.oracle.check_payload(delivery.run.post, payload);
        self.offer_to(node, id, poll);
    }

    /// The verdict takes longer than a moment.
    pub fn claimed_due(&mut self, node: usize, id: u64) {
        if self.nodes[node].deliveries.contains_key(&id) {
            self.send_claimed(node, id);
        }
    }

    pub fn send_claimed(&mut self, node: usize, id: u64) {
        let delivery = self.nodes[node].deliveries.get_mut(&id).expect("it goes on");
        let Some(taken) = &mut delivery.forwarded else { return };
        let reply = taken.reply;
        if !std::mem::replace(&mut taken.is_claimed_sent, true) {
            self.answer(node, reply, &Answer::Claimed);
        }
    }
}
