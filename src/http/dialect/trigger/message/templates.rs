//! Owns the templates of one thread: which are kept, and when one is learned.

use std::cell::RefCell;
use std::ops::Range;

use super::kind::{Kind, Parts};
use super::learner;
use super::scan::special_bytes;
use super::template::Template;
use crate::config::MessageCheck;

/// A thread keeps at most this many templates.
const MAX_TEMPLATES: usize = 4;
/// Bodies of this many shapes may alternate, and each is still learned.
const MAX_RECENT: usize = 4;
/// After a body of which no template can be made, so many with its count of special bytes are left to the parser.
const PASSED_OVER: u8 = 64;

thread_local! {
    static TEMPLATES: RefCell<Templates> = RefCell::new(Templates::new(MessageCheck::Strict));
}

/// A body that only the parser could read. Nothing of it is kept but two numbers.
#[derive(Debug, Default, Clone, Copy)]
struct Recent {
    /// The same in all bodies of one shape, and quickly found: a body with another count is not worth a second look.
    special_bytes: usize,
    shape: Shape,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Shape {
    #[default]
    Unknown,
    Hash(u64),
    /// There was no template for the last one; so many more are passed over before the next try, as another shape may have
    /// the same count.
    Unlearnable(u8),
}

struct Templates {
    /// All of them were learned under this check.
    check: MessageCheck,
    /// The one that matched last is the first.
    kept: Vec<Template>,
    /// What is known of the bodies that only the parser could read lately, the last one first.
    recent: [Recent; MAX_RECENT],
    hasher: ahash::RandomState,
    /// For the next template, so that a body that only the parser can read costs no memory.
    draft: Template,
}

/// The message in the body, if the body matches a template of this thread that was learned under this check.
pub(super) fn read(body: &str, check: MessageCheck) -> Option<(&str, Parts<'_>)> {
    TEMPLATES.with_borrow_mut(|templates| templates.of(check).read(body))
}

/// Notes a body that the parser has accepted under this check, and keeps a template once a shape was repeated: at its third body. A
/// template is given up unless it reads this very body as the parser did.
pub(super) fn learn(
    body: &str,
    message: Range<usize>,
    schema: Kind,
    check: MessageCheck,
    is_as_parsed: impl FnOnce(&str, Parts<'_>) -> bool,
) {
    TEMPLATES.with_borrow_mut(|templates| {
        let templates = templates.of(check);
        let draft = &mut templates.draft;
        let special_bytes = special_bytes(body.as_bytes());
        let Some(known) = templates.recent.iter_mut().find(|recent| recent.special_bytes == special_bytes)
        else {
            templates.recent.rotate_right(1);
            templates.recent[0] = Recent { special_bytes, shape: Shape::Unknown };
            return;
        };
        if let Shape::Unlearnable(left @ 1..) = &mut known.shape {
            *left -= 1;
            return;
        }
        let learned = learner::learn(body, message, schema, check, draft);
        let unlearnable = Shape::Unlearnable(PASSED_OVER);
        let shape = learned.map_or(unlearnable, |()| Shape::Hash(draft.shape(&templates.hasher)));
        let is_repeated = std::mem::replace(&mut known.shape, shape) == shape && learned.is_some();
        if is_repeated {
            if draft.read(body).is_some_and(|(text, parts)| is_as_parsed(text, parts)) {
                *known = Recent::default();
                templates.keep_draft();
            } else {
                known.shape = unlearnable;
            }
        }
        // A name in it may come from this body alone.
        templates.draft.literals.clear();
    });
}

impl Templates {
    fn new(check: MessageCheck) -> Self {
        Self {
            check,
            kept: Vec::new(),
            recent: [Recent::default(); MAX_RECENT],
            hasher: ahash::RandomState::new(),
            draft: Template::default(),
        }
    }

    /// Empty if another check applied so far: what a template accepts depends on the check, and on nothing else that a reload
    /// can change.
    fn of(&mut self, check: MessageCheck) -> &mut Self {
        if self.check != check {
            *self = Self::new(check);
        }
        self
    }

    fn read<'a>(&mut self, body: &'a str) -> Option<(&'a str, Parts<'a>)> {
        let (at, found) =
            self.kept.iter_mut().enumerate().find_map(|(at, template)| Some((at, template.read(body)?)))?;
        if at > 0 {
            self.kept[..=at].rotate_right(1);
        }
        Some(found)
    }

    /// A new template takes the last place, until it matches. Shapes that do not come again so displace each other only.
    fn keep_draft(&mut self) {
        self.kept.truncate(MAX_TEMPLATES - 1);
        self.kept.push(self.draft.clone());
    }
}

/// All bytes of bodies that this thread keeps.
#[cfg(test)]
pub(super) fn kept_bytes() -> Vec<u8> {
    TEMPLATES.with_borrow(|templates| {
        let drafts = std::iter::once(&templates.draft);
        templates.kept.iter().chain(drafts).flat_map(|template| template.literals.clone()).collect()
    })
}

/// How many templates this thread keeps.
#[cfg(test)]
pub(super) fn count() -> usize {
    TEMPLATES.with_borrow(|templates| templates.kept.len())
}
