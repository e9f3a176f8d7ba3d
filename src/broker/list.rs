//! Owns the intrusive list: a doubly linked list through the entries of a slab, so that insertion and removal cost O(1).

use super::chunks::Chunks;

const NONE: u32 = u32::MAX;

/// A node's neighbours in one list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    prev: u32,
    next: u32,
}

impl Link {
    pub(super) const UNLINKED: Self = Self { prev: NONE, next: NONE };

    /// The neighbour towards the back.
    pub(super) fn next(self) -> Option<u32> {
        (self.next != NONE).then_some(self.next)
    }
}

/// A slab entry that can be in several lists at once, with a link for each.
pub(super) trait ListNode {
    fn link(&mut self, kind: ListKind) -> &mut Link;
    fn next(&self, kind: ListKind) -> Link;
}

/// Which of an entry's links a list uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ListKind {
    Pool,
    Deadline,
    Feed,
}

/// The ends of one list; its nodes are in the slab.
#[derive(Debug, Clone, Copy)]
pub(super) struct IntrusiveList {
    kind: ListKind,
    head: u32,
    tail: u32,
    len: u32,
}

impl IntrusiveList {
    pub(super) const fn new(kind: ListKind) -> Self {
        Self { kind, head: NONE, tail: NONE, len: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.head == NONE
    }

    pub(super) fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn front(&self) -> Option<u32> {
        (self.head != NONE).then_some(self.head)
    }

    pub(super) fn back(&self) -> Option<u32> {
        (self.tail != NONE).then_some(self.tail)
    }

    pub(super) fn push_back<T: ListNode>(&mut self, slab: &mut Chunks<T>, slot: u32) {
        *slab[slot].link(self.kind) = Link { prev: self.tail, next: NONE };
        match self.back() {
            Some(tail) => slab[tail].link(self.kind).next = slot,
            None => self.head = slot,
        }
        self.tail = slot;
        self.len += 1;
    }

    pub(super) fn push_front<T: ListNode>(&mut self, slab: &mut Chunks<T>, slot: u32) {
        *slab[slot].link(self.kind) = Link { prev: NONE, next: self.head };
        match self.front() {
            Some(head) => slab[head].link(self.kind).prev = slot,
            None => self.tail = slot,
        }
        self.head = slot;
        self.len += 1;
    }

    pub(super) fn remove<T: ListNode>(&mut self, slab: &mut Chunks<T>, slot: u32) {
        let Link { prev, next } = std::mem::replace(slab[slot].link(self.kind), Link::UNLINKED);
        match prev {
            NONE => self.head = next,
            prev => slab[prev].link(self.kind).next = next,
        }
        match next {
            NONE => self.tail = prev,
            next => slab[next].link(self.kind).prev = prev,
        }
        self.len -= 1;
    }

    /// The entries from the front to the back.
    pub(super) fn iter<'a, T: ListNode>(
        &self,
        slab: &'a Chunks<T>,
    ) -> impl Iterator<Item = u32> + use<'a, T> {
        let kind = self.kind;
        std::iter::successors(self.front(), move |&slot| slab[slot].next(kind).next())
    }
}
