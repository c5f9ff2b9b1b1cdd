//! The search for the best attempt at a funnel, against a reference that tries every attempt.

use echopilot_analytics::metrics::funnel::attempt::{Attempt, Between, Order, Rules, StepEvent};
use echopilot_analytics::metrics::funnel::steps::MAX_STEPS;
use proptest::prelude::*;

/// Level, completion, step 1 and the time of each step: what makes an attempt better than another.
type Rank = (
    usize,
    std::cmp::Reverse<i64>,
    i64,
    std::cmp::Reverse<Vec<i64>>,
);

/// The best attempt, as a funnel finds it.
fn best(rules: &Rules, events: &[StepEvent]) -> Option<Attempt> {
    rules.best(events, &mut || Ok(())).expect("not cancelled")
}

/// The best attempt, found by filling the steps with every choice of events.
fn brute_force(rules: &Rules, events: &[StepEvent]) -> Option<Vec<i64>> {
    let mut best: Option<Rank> = None;
    extend(rules, events, &mut Vec::new(), &mut best);
    best.map(|(_, _, _, times)| times.0)
}

/// Tries every event for the next step. `chosen` are the places of the events of the steps so far
/// and, in any order, which step each fills.
fn extend(
    rules: &Rules,
    events: &[StepEvent],
    chosen: &mut Vec<(usize, usize)>,
    best: &mut Option<Rank>,
) {
    if !chosen.is_empty() && is_allowed(rules, events, chosen) {
        let mut times: Vec<i64> = chosen
            .iter()
            .map(|&(place, _)| events[place].ts_us)
            .collect();
        times.sort_unstable();
        let rank = (
            times.len(),
            std::cmp::Reverse(times[times.len() - 1]),
            times[0],
            std::cmp::Reverse(times),
        );
        if best.as_ref().is_none_or(|best| *best < rank) {
            *best = Some(rank);
        }
    }
    if chosen.len() == rules.steps {
        return;
    }
    for place in 0..events.len() {
        if chosen.iter().any(|&(other, _)| other == place) {
            continue;
        }
        let steps = match rules.order {
            Order::Any => 0..rules.steps,
            Order::Ordered | Order::Strict => chosen.len()..chosen.len() + 1,
        };
        for step in steps {
            let is_open = !chosen.iter().any(|&(_, filled)| filled == step);
            if is_open && events[place].steps & (1 << step) != 0 {
                chosen.push((place, step));
                extend(rules, events, chosen, best);
                chosen.pop();
            }
        }
    }
}

fn is_allowed(rules: &Rules, events: &[StepEvent], chosen: &[(usize, usize)]) -> bool {
    let times: Vec<i64> = chosen
        .iter()
        .map(|&(place, _)| events[place].ts_us)
        .collect();
    let (first, last) = (times.iter().min().unwrap(), times.iter().max().unwrap());
    if last - first > rules.within_us {
        return false;
    }
    let between = |from: i64, to: i64| {
        events
            .iter()
            .filter(move |event| from < event.ts_us && event.ts_us < to)
    };
    if rules.order != Order::Any && times.windows(2).any(|pair| pair[0] > pair[1]) {
        return false;
    }
    if rules.order == Order::Strict
        && times
            .windows(2)
            .any(|pair| between(pair[0], pair[1]).next().is_some())
    {
        return false;
    }
    rules.exclusions.iter().enumerate().all(|(bit, exclusion)| {
        let is_excluded = |event: &StepEvent| event.steps & (1 << (MAX_STEPS + bit)) != 0;
        let (from, to) = match rules.order {
            Order::Any => (*first, *last),
            _ if times.len() < exclusion.from => return true,
            _ => (
                times[exclusion.from - 1],
                times[exclusion.to.min(times.len()) - 1],
            ),
        };
        !between(from, to).any(is_excluded)
    })
}

fn events() -> impl Strategy<Value = Vec<StepEvent>> {
    // Few timestamps, so that there are ties; events of no step, of one, of several, excluded ones.
    prop::collection::vec((0..7_i64, 0..16_u32, 0..6_u32), 0..8).prop_map(|mut made| {
        made.sort_by_key(|(ts_us, ..)| *ts_us);
        made.into_iter()
            .map(|(ts_us, steps, excluded)| StepEvent {
                ts_us,
                steps: (if steps > 11 { steps } else { 1 << (steps % 4) })
                    | if excluded < 2 {
                        1 << (MAX_STEPS as u32 + excluded)
                    } else {
                        0
                    },
                group: 0,
            })
            .collect()
    })
}

fn rules() -> impl Strategy<Value = Rules> {
    let order = prop::sample::select(vec![Order::Ordered, Order::Strict, Order::Any]);
    let between = prop::collection::vec((0..3_usize, 0..3_usize), 0..3);
    (order, 2..=4_usize, 0..8_i64, between).prop_map(|(order, steps, within_us, between)| Rules {
        steps,
        within_us,
        order,
        exclusions: between
            .into_iter()
            .map(|(from, longer)| match order {
                Order::Any => Between { from: 1, to: steps },
                Order::Ordered | Order::Strict => {
                    let from = 1 + from % (steps - 1);
                    Between {
                        from,
                        to: from + 1 + longer % (steps - from),
                    }
                }
            })
            .collect(),
    })
}

/// The events, limited to the steps and exclusions of the rules.
fn known(mut events: Vec<StepEvent>, rules: &Rules) -> Vec<StepEvent> {
    for event in &mut events {
        event.steps &= (1 << (MAX_STEPS + rules.exclusions.len())) - 1;
    }
    events
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn the_best_attempt_is_the_best_of_all_attempts(events in events(), rules in rules()) {
        let events = known(events, &rules);
        let found = best(&rules, &events).map(|attempt| attempt.times_us);
        prop_assert_eq!(found, brute_force(&rules, &events));
    }

    #[test]
    fn a_wider_window_never_loses_a_conversion(events in events(), rules in rules(), more in 0..5_i64) {
        let events = known(events, &rules);
        let level = |rules: &Rules| best(rules, &events).map_or(0, |attempt: Attempt| attempt.times_us.len());
        let wider = Rules { within_us: rules.within_us + more, ..rules.clone() };
        prop_assert!(level(&wider) >= level(&rules));
    }
}
