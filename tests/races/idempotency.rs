//! Owns the races of a run that is posted several times at once: one delivers it, the others repeat its answer.

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
const REMEMBERED: Duration = Duration::from_secs(60);

/// How a POST went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Post {
    Delivered,
    Failed,
    Repeated(usize),
    Left,
}

/// The platform's side of it: who delivers now, how often it was tried, and how many tries fail.
struct Platform {
    repeats: Arc<IdempotencyCache<&'static str, usize>>,
    remembered: Duration,
    under_way: AtomicUsize,
    tries: AtomicUsize,
    failing: usize,
}

impl Platform {
    fn new(failing: usize, remembered: Duration) -> Arc<Self> {
        let (under_way, tries) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self {
            repeats: Arc::new(IdempotencyCache::default()),
            remembered,
            under_way,
            tries,
            failing,
        })
    }

    /// Posts the run as `http::dispatch` does.
    async fn post(&self) -> Post {
        let first = match self.repeats.begin(&RUN, None, self.remembered).await {
            Lookup::Cached(answer) => return Post::Repeated(answer),
            Lookup::Leader(first) => first,
            Lookup::Conflict => unreachable!("no content is compared"),
        };
        assert_eq!(self.under_way.fetch_add(1, Ordering::SeqCst), 0, "I1: two POSTs offer the same run");
        thread::yield_now();
        let this = self.tries.fetch_add(1, Ordering::SeqCst);
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        if this < self.failing {
            return Post::Failed;
        }
        first.complete(this);
        Post::Delivered
    }

    /// Posts it and leaves if it has to wait.
    async fn post_and_leave(&self) -> Post {
        let mut post = pin!(self.post());
        let mut patience = 1;
        poll_fn(|cx| match post.as_mut().poll(cx) {
            Poll::Ready(post) => Poll::Ready(post),
            Poll::Pending if patience == 0 => Poll::Ready(Post::Left),
            Poll::Pending => {
                patience -= 1;
                thread::yield_now();
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        })
        .await
    }
}

fn poster(platform: &Arc<Platform>) -> thread::JoinHandle<Post> {
    let platform = platform.clone();
    thread::spawn(move || block_on(platform.post()))
}

fn count(posts: &[Post], what: Post) -> usize {
    posts.iter().filter(|&&post| post == what).count()
}

#[test]
fn of_three_posts_one_delivers_and_the_others_repeat_its_answer() {
    explore(|| {
        let platform = Platform::new(0, REMEMBERED);
        let posts =
            [poster(&platform), poster(&platform), poster(&platform)].map(|post| post.join().unwrap());
        let counts = (count(&posts, Post::Delivered), count(&posts, Post::Repeated(0)));
        assert_eq!(counts, (1, 2), "I1: one delivery: {posts:?}");
    });
}

#[test]
fn what_failed_is_tried_again_by_the_next_until_it_is_delivered() {
    explore(|| {
        let failing = thread_rng().gen_range(0..=3);
        let platform = Platform::new(failing, REMEMBERED);
        let posts =
            [poster(&platform), poster(&platform), poster(&platform)].map(|post| post.join().unwrap());
        assert_eq!(count(&posts, Post::Failed), failing, "{posts:?}");
        assert_eq!(count(&posts, Post::Delivered), usize::from(failing < 3), "I1: {posts:?}");
        let repeated = count(&posts, Post::Repeated(failing));
        assert_eq!(repeated, 2_usize.saturating_sub(failing), "{posts:?}");
    });
}

/// One of those who wait for the outcome leaves, perhaps just as it is told: the others are told all the same.
#[test]
fn a_post_that_leaves_takes_no_outcome_with_it() {
    explore(|| {
        let platform = Platform::new(1, REMEMBERED);
        let fickle = thread::spawn({
            let platform = platform.clone();
            move || block_on(platform.post_and_leave())
        });
        let posts =
            [poster(&platform), poster(&platform), poster(&platform)].map(|post| post.join().unwrap());
        let all = [posts[0], posts[1], posts[2], fickle.join().unwrap()];
        assert_eq!((count(&all, Post::Failed), count(&all, Post::Delivered)), (1, 1), "I1: {all:?}");
    });
}

/// A delivered run is forgotten at once here, so that the next POST is a first one while the last one is being cleared
/// away: one at a time all the same.
#[test]
fn a_run_that_is_forgotten_is_still_offered_by_one_post_at_a_time() {
    explore(|| {
        let platform = Platform::new(0, Duration::ZERO);
        let posts = [poster(&platform), poster(&platform), poster(&platform)];
        assert!(posts.into_iter().all(|post| post.join().unwrap() == Post::Delivered));
    });
}
