//! Owns the tests of the queues: nothing is lost or reordered that fits, and what does not fit is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;

use super::*;

const ALL: usize = usize::MAX;

fn push(queues: &QueueWriter, number: u64) -> bool {
    queues.push(Instant::now(), |out| out.put_u64_ne(number))
}

fn read(reader: &mut QueueReader, most: usize) -> Batch<u64> {
    reader.read(most, |_, mut bytes| bytes.try_get_u64_ne().ok())
}

fn events<T>(batch: Batch<T>) -> Vec<T> {
    batch.events.into_iter().map(|(_, event)| event).collect()
}

fn numbers(reader: &mut QueueReader) -> Vec<u64> {
    events(read(reader, ALL))
}

#[test]
fn a_full_queue_refuses_and_what_it_took_is_read_in_order() {
    let (queues, mut reader) = open();
    let event = HEADER + size_of::<u64>();
    // Twice, so that the second time the events do not begin at the start of the ring.
    for round in 0..2 {
        let fits = CAPACITY / event;
        let taken = (0..2 * fits as u64).take_while(|&number| push(&queues, number)).count();
        assert_eq!(taken, fits, "{round}");
        assert!(!push(&queues, 0));
        assert_eq!(numbers(&mut reader), (0..taken as u64).collect::<Vec<_>>());
        assert!((0..1_000).all(|number| push(&queues, number)), "there is room again");
        assert_eq!(numbers(&mut reader).len(), 1_000);
    }
}

#[test]
fn events_of_any_length_come_back_whole() {
    let (queues, mut reader) = open();
    let mut rng = fastrand::Rng::with_seed(15);
    let mut expected = Vec::new();
    let mut total = 0;
    while total < 5 * CAPACITY {
        let event: Vec<u8> = (0..rng.usize(..40_000)).map(|_| rng.u8(..)).collect();
        total += event.len();
        assert!(queues.push(Instant::now(), |out| out.put_slice(&event)));
        expected.push(event);
        if expected.len() == 20 {
            assert_eq!(events(reader.read(ALL, |_, bytes| Some(bytes.to_vec()))), expected);
            expected.clear();
        }
    }
}

#[test]
fn threads_that_record_at_once_lose_nothing_and_keep_their_order() {
    const THREADS: u64 = 8;
    const EACH: u64 = 20_000;
    let (queues, mut reader) = open();
    let queues = Arc::new(queues);
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let queues = queues.clone();
            thread::spawn(move || {
                for number in 0..EACH {
                    while !push(&queues, thread * EACH + number) {
                        thread::yield_now();
                    }
                }
            })
        })
        .collect();
    let mut next: Vec<u64> = (0..THREADS).map(|thread| thread * EACH).collect();
    let mut check = |events: Vec<u64>| {
        for number in events {
            let next = &mut next[usize::try_from(number / EACH).unwrap()];
            assert_eq!(number, *next, "the next of its thread");
            *next += 1;
        }
    };
    // The threads end while their last events are queued.
    while threads.iter().any(|thread| !thread.is_finished()) {
        check(events(read(&mut reader, 100)));
    }
    for thread in threads {
        thread.join().unwrap();
    }
    check(numbers(&mut reader));
    assert_eq!(next, (1..=THREADS).map(|thread| thread * EACH).collect::<Vec<_>>());
    numbers(&mut reader);
    assert!(reader.queues.is_empty(), "the queues of threads that have ended are freed");
}

#[test]
fn an_event_follows_those_that_it_was_caused_by() {
    const TURNS: u64 = 20_000;
    let (queues, mut reader) = open();
    let (queues, turn) = (Arc::new(queues), Arc::new(AtomicU64::new(0)));
    let threads = [0, 1].map(|parity| {
        let (queues, turn) = (queues.clone(), turn.clone());
        thread::spawn(move || {
            for number in (parity..TURNS).step_by(2) {
                while turn.load(Ordering::Acquire) != number {
                    thread::yield_now();
                }
                assert!(push(&queues, number));
                turn.store(number + 1, Ordering::Release);
            }
        })
    });
    let mut all = Vec::new();
    while threads.iter().any(|thread| !thread.is_finished()) {
        all.extend(numbers(&mut reader));
    }
    all.extend(numbers(&mut reader));
    assert_eq!(all, (0..TURNS).collect::<Vec<_>>());
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn an_event_whose_time_is_earlier_than_the_one_before_stays_behind_it() {
    let (queues, mut reader) = open();
    let now = Instant::now();
    for (number, time) in [(1, now + Duration::from_millis(2)), (2, now)] {
        queues.push(time, |out| out.put_u64_ne(number));
    }
    let other = || queues.push(now + Duration::from_millis(1), |out| out.put_u64_ne(3));
    thread::scope(|scope| scope.spawn(other).join().unwrap());
    thread::sleep(Duration::from_millis(3));
    assert_eq!(numbers(&mut reader), [3, 1, 2]);
}

#[test]
fn a_read_takes_as_many_as_are_wanted() {
    let (queues, mut reader) = open();
    (0..10).for_each(|number| assert!(push(&queues, number)));
    let batch = read(&mut reader, 4);
    assert_eq!((batch.has_more, events(batch)), (true, vec![0, 1, 2, 3]));
    let batch = read(&mut reader, 6);
    assert_eq!((batch.has_more, events(batch)), (false, vec![4, 5, 6, 7, 8, 9]));
}

#[test]
fn the_last_read_has_all_that_was_recorded_before_the_end() {
    let (queues, mut reader) = open();
    let (begin, begun) = sync_channel(0);
    let queues = Arc::new(queues);
    let other = thread::spawn({
        let queues = queues.clone();
        move || {
            assert!(push(&queues, 1));
            begin.send(()).unwrap();
        }
    });
    begun.recv().unwrap();
    other.join().unwrap();
    assert!(push(&queues, 2));
    queues.close();
    assert!(push(&queues, 3), "its queue is still read");
    let batch = read(&mut reader, 1);
    assert_eq!((batch.is_last, batch.has_more, events(batch)), (true, false, vec![1, 2, 3]));
    drop(reader);
    assert!(!push(&queues, 4), "nobody would read it");
    assert!(!thread::spawn(move || push(&queues, 5)).join().unwrap(), "nor that of a new thread");
}

#[test]
fn a_thread_has_a_queue_for_each_journal_and_forgets_those_that_are_closed() {
    let ((first, mut first_reader), (second, mut second_reader)) = (open(), open());
    assert!(push(&first, 1) && push(&second, 2) && push(&first, 3));
    assert_eq!((numbers(&mut first_reader), numbers(&mut second_reader)), (vec![1, 3], vec![2]));
    drop((first_reader, second_reader));
    let (third, _reader) = open();
    assert!(push(&third, 4));
    assert_eq!(QUEUES.with_borrow(Vec::len), 1);
}
