//! The greatest matching of step events and steps, where each event fills one step.
//!
//! Events with equal bitmasks are interchangeable, so they are counted and not listed. Found by
//! augmenting paths (Kuhn).

use super::steps::{MAX_STEPS, StepMask};

/// Events, and the steps that some of them fill.
#[derive(Debug, Clone, Default)]
pub struct Matching {
    pools: Vec<Pool>,
    /// The pool that fills each step.
    filled: [Option<usize>; MAX_STEPS],
}

/// Events that may fill the same steps.
#[derive(Debug, Clone)]
struct Pool {
    steps: StepMask,
    events: usize,
    used: usize,
}

impl Matching {
    /// Adds an event that may fill these steps.
    pub fn add(&mut self, steps: StepMask) {
        if steps == 0 {
            return;
        }
        match self.pools.iter_mut().find(|pool| pool.steps == steps) {
            Some(pool) => pool.events += 1,
            None => self.pools.push(Pool {
                steps,
                events: 1,
                used: 0,
            }),
        }
    }

    /// Removes an event that was added.
    pub fn remove(&mut self, steps: StepMask) {
        if let Some(pool) = self.pools.iter_mut().find(|pool| pool.steps == steps) {
            pool.events -= 1;
        }
    }

    /// Fills a step, if the steps filled so far can stay filled.
    pub fn fill(&mut self, step: usize) -> bool {
        let mut visited = vec![false; self.pools.len()];
        self.augment(step, &mut visited)
    }

    fn augment(&mut self, step: usize, visited: &mut [bool]) -> bool {
        for place in 0..self.pools.len() {
            let (Some(pool), Some(visited_pool)) =
                (self.pools.get_mut(place), visited.get_mut(place))
            else {
                return false;
            };
            if *visited_pool || pool.steps & (1 << step) == 0 {
                continue;
            }
            *visited_pool = true;
            let is_free = pool.used < pool.events;
            if is_free {
                pool.used += 1;
            }
            if is_free || self.free_an_event(place, visited) {
                if let Some(filled) = self.filled.get_mut(step) {
                    *filled = Some(place);
                }
                return true;
            }
        }
        false
    }

    /// Fills a step of this pool from another one.
    fn free_an_event(&mut self, place: usize, visited: &mut [bool]) -> bool {
        (0..MAX_STEPS)
            .any(|step| self.filled.get(step) == Some(&Some(place)) && self.augment(step, visited))
    }

    /// Fills one more of the first `steps` steps, if possible.
    pub fn grow(&mut self, steps: usize) -> bool {
        (0..steps).any(|step| self.filled.get(step) == Some(&None) && self.fill(step))
    }

    /// Number of the first `steps` steps that can be filled.
    pub fn size(&mut self, steps: usize) -> usize {
        self.filled = [None; MAX_STEPS];
        for pool in &mut self.pools {
            pool.used = 0;
        }
        (0..steps).filter(|&step| self.fill(step)).count()
    }
}
