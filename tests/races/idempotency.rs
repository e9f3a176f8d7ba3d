//! Owns the races of a run that is posted several times at once: one POST delivers it, and the others get its outcome.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use pilotlight::exchange::{IdempotencyCache, Lookup};
use shuttle::future::block_on;
use shuttle::rand::{Rng, thread_rng};
use shuttle::thread;

use super::world::explore;

const RUN: &str = "run_1";
const TTL: Duration = Duration::from_secs(60);

/// The result of a POST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Post {
    Delivered,
    Failed,
    Cached(usize),
    Aborted,
}

/// The run's supervisors: how many deliver now, how often it was tried, and how many tries fail.
struct Platform {
    cache: Arc<IdempotencyCache<&'static str, usize>>,
    ttl: Duration,
    in_flight: AtomicUsize,
    tries: AtomicUsize,
    failing: usize,
}

impl Platform {
    fn new(failing: usize, ttl: Duration) -> Arc<Self> {
        let (in_flight, tries) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { cache: Arc::new(IdempotencyCache::default()), ttl, in_flight, tries, failing })
    }

    /// Posts the run as a dispatch does.
    async fn post(&self) -> Post {
        let leader = match self.cache.begin(&RUN, None, self.ttl).await {
            Lookup::Cached(outcome) => return Post::Cached(outcome),
            Lookup::Leader(leader) => leader,
            Lookup::Conflict => unreachable!("content is not compared"),
        };
        assert_eq!(self.in_flight.fetch_add(1, Ordering::SeqCst), 0, "I1: two POSTs offer the same run");
        thread::yield_now();
        let this = self.tries.fetch_add(1, Ordering::SeqCst);
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        if this < self.failing {
            return Post::Failed;
        }
        leader.complete(this, std::time::Instant::now());
        Post::Delivered
    }

    /// Posts the run, and aborts if it has to wait.
    async fn post_and_abort(&self) -> Post {
        let mut post = pin!(self.post());
        let mut polls_left = 1;
        poll_fn(|cx| match post.as_mut().poll(cx) {
            Poll::Ready(post) => Poll::Ready(post),
            Poll::Pending if polls_left == 0 => Poll::Ready(Post::Aborted),
            Poll::Pending => {
                polls_left -= 1;
                thread::yield_now();
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        })
        .await
    }
}

fn spawn_post(platform: &Arc<Platform>) -> thread::JoinHandle<Post> {
    let platform = platform.clone();
    thread::spawn(move || block_on(platform.post()))
}

fn count(posts: &[Post], what: Post) -> usize {
    posts.iter().filter(|&&post| post == what).count()
}

#[test]
fn of_three_posts_one_delivers_and_the_others_get_its_outcome() {
    explore(|| {
        let platform = Platform::new(0, TTL);
        let posts = [spawn_post(&platform), spawn_post(&platform), spawn_post(&platform)]
            .map(|post| post.join().unwrap());
        let counts = (count(&posts, Post::Delivered), count(&posts, Post::Cached(0)));
        assert_eq!(counts, (1, 2), "I1: one delivery: {posts:?}");
    });
}

#[test]
fn a_failed_run_is_tried_again_by_the_next_post_until_it_is_delivered() {
    explore(|| {
        let failing = thread_rng().gen_range(0..=3);
        let platform = Platform::new(failing, TTL);
        let posts = [spawn_post(&platform), spawn_post(&platform), spawn_post(&platform)]
            .map(|post| post.join().unwrap());
        assert_eq!(count(&posts, Post::Failed), failing, "{posts:?}");
        assert_eq!(count(&posts, Post::Delivered), usize::from(failing < 3), "I1: {posts:?}");
        let cached = count(&posts, Post::Cached(failing));
        assert_eq!(cached, 2_usize.saturating_sub(failing), "{posts:?}");
    });
}

/// A POST that waits for the outcome is aborted, perhaps at the moment of its notification: the others still get it.
#[test]
fn an_aborted_post_passes_its_notification_on() {
    explore(|| {
        let platform = Platform::new(1, TTL);
        let aborted = thread::spawn({
            let platform = platform.clone();
            move || block_on(platform.post_and_abort())
        });
        let posts = [spawn_post(&platform), spawn_post(&platform), spawn_post(&platform)]
            .map(|post| post.join().unwrap());
        let all = [posts[0], posts[1], posts[2], aborted.join().unwrap()];
        assert_eq!((count(&all, Post::Failed), count(&all, Post::Delivered)), (1, 1), "I1: {all:?}");
    });
}

/// Here an outcome expires at once, so that the next POST becomes a leader while the guard before is dropped.
#[test]
fn a_run_without_a_cached_outcome_is_offered_by_one_post_at_a_time() {
    explore(|| {
        let platform = Platform::new(0, Duration::ZERO);
        let posts = [spawn_post(&platform), spawn_post(&platform), spawn_post(&platform)];
        assert!(posts.into_iter().all(|post| post.join().unwrap() == Post::Delivered));
    });
}
