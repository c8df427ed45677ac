//! Which free slots a gang takes.
//!
//! A ring is fastest when its neighbours share a host, so that a gang is packed on as few hosts as
//! can hold it, and within a host on as few nodes. Of the hosts that can hold what is left, the
//! one with the fewest free slots is taken, so that big holes stay whole for big jobs. Every tie
//! is broken by name, then by slot id.

use std::collections::BTreeMap;

use ringfold_common::ids::{NodeName, SlotId};

/// A free slot, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FreeSlot<'a> {
    pub(crate) host: &'a str,
    pub(crate) node: &'a NodeName,
    pub(crate) slot: SlotId,
}

/// `needed` of the free slots in rank order, or `None` if there are fewer. Neighbours in the
/// result share a node where possible, else a host.
pub(crate) fn place(free: &[FreeSlot<'_>], needed: usize) -> Option<Vec<SlotId>> {
    if free.len() < needed {
        return None;
    }
    let mut hosts: BTreeMap<&str, BTreeMap<&NodeName, Vec<SlotId>>> = BTreeMap::new();
    for candidate in free {
        let nodes = hosts.entry(candidate.host).or_default();
        let slots = nodes.entry(candidate.node).or_default();
        slots.push(candidate.slot);
    }
    let room = |nodes: &BTreeMap<&NodeName, Vec<SlotId>>| nodes.values().map(Vec::len).sum();
    let host_rooms = hosts.iter().map(|(host, nodes)| (*host, room(nodes)));
    let mut placed = Vec::with_capacity(needed);
    for (host, take_host) in pack(host_rooms.collect(), needed) {
        let nodes = &mut hosts.entry(host).or_default();
        let node_rooms = nodes.iter().map(|(node, slots)| (*node, slots.len()));
        for (node, take_node) in pack(node_rooms.collect(), take_host) {
            let slots = nodes.entry(node).or_default();
            slots.sort_unstable();
            placed.extend(slots.iter().take(take_node));
        }
    }
    Some(placed)
}

/// How much of `needed` falls to which place, given the room of each. Takes the fewest places:
/// the roomiest ones until the rest fits one, then the tightest that fits. The rooms together
/// hold at least `needed`.
fn pack<K: Ord + Copy>(mut rooms: Vec<(K, usize)>, needed: usize) -> Vec<(K, usize)> {
    // Roomiest first; of equals, the first name first.
    rooms.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    let mut taken = Vec::new();
    let mut rest = needed;
    let mut from = 0;
    while rest > 0 && from < rooms.len() {
        let fitting = &rooms[from..];
        let tightest = fitting.iter().filter(|(_, room)| *room >= rest);
        if let Some((place, _)) = tightest.min_by_key(|(place, room)| (*room, *place)) {
            taken.push((*place, rest));
            return taken;
        }
        let (place, room) = rooms[from];
        taken.push((place, room));
        rest -= room;
        from += 1;
    }
    taken
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn placed(slots: &[(&str, &str, u64)], needed: usize) -> Option<Vec<u64>> {
        let nodes: Vec<_> = slots
            .iter()
            .map(|(_, node, _)| NodeName((*node).into()))
            .collect();
        let free: Vec<_> = slots
            .iter()
            .zip(&nodes)
            .map(|((host, _, slot), node)| FreeSlot {
                host,
                node,
                slot: SlotId(*slot),
            })
            .collect();
        Some(
            place(&free, needed)?
                .into_iter()
                .map(|slot| slot.0)
                .collect(),
        )
    }

    const MIXED: [(&str, &str, u64); 6] = [
        ("alpha", "a", 1),
        ("beta", "b1", 2),
        ("alpha", "a", 3),
        ("beta", "b2", 4),
        ("beta", "b1", 5),
        ("gamma", "g", 6),
    ];

    #[test]
    fn all_or_nothing() {
        assert_eq!(placed(&MIXED, 7), None);
        assert_eq!(placed(&MIXED, 6), Some(vec![2, 5, 4, 1, 3, 6]));
        assert_eq!(placed(&[], 1), None);
    }

    #[test]
    fn the_tightest_host_that_holds_the_gang_is_taken() {
        assert_eq!(placed(&MIXED, 1), Some(vec![6]));
        assert_eq!(placed(&MIXED, 2), Some(vec![1, 3]));
        assert_eq!(placed(&MIXED, 3), Some(vec![2, 5, 4]));
    }

    #[test]
    fn a_gang_that_no_host_holds_takes_the_roomiest_then_the_tightest() {
        assert_eq!(placed(&MIXED, 4), Some(vec![2, 5, 4, 6]));
        assert_eq!(placed(&MIXED, 5), Some(vec![2, 5, 4, 1, 3]));
    }

    proptest! {
        #[test]
        fn the_order_of_the_input_does_not_matter(
            hosts in proptest::collection::vec(0usize..4, 1..12),
            needed in 1usize..12,
        ) {
            let names = ["h0", "h1", "h2", "h3"];
            let slots: Vec<_> = hosts
                .iter()
                .enumerate()
                .map(|(slot, host)| (names[*host], names[*host], slot as u64))
                .collect();
            let mut reversed = slots.clone();
            reversed.reverse();
            let result = placed(&slots, needed);
            prop_assert_eq!(&result, &placed(&reversed, needed));
            if let Some(mut result) = result {
                prop_assert_eq!(result.len(), needed);
                result.sort_unstable();
                result.dedup();
                prop_assert_eq!(result.len(), needed);
            } else {
                prop_assert!(slots.len() < needed);
            }
        }
    }
}
