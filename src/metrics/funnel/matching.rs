//! Which steps a number of acts can fill when each act fills one: the greatest matching of steps and acts.
//!
//! Acts with equal marks are alike, so that they are counted and not listed. Found by augmenting paths (Kuhn).

use super::steps::{MAX_STEPS, Marks};

/// Acts, and the steps that some of them fill.
#[derive(Debug, Clone, Default)]
pub struct Matching {
    pools: Vec<Pool>,
    /// The pool that fills each step.
    filled: [Option<usize>; MAX_STEPS],
}

/// Acts that may fill the same steps.
#[derive(Debug, Clone)]
struct Pool {
    marks: Marks,
    acts: usize,
    used: usize,
}

impl Matching {
    /// Adds an act that may fill these steps.
    pub fn add(&mut self, marks: Marks) {
        if marks == 0 {
            return;
        }
        match self.pools.iter_mut().find(|pool| pool.marks == marks) {
            Some(pool) => pool.acts += 1,
            None => self.pools.push(Pool {
                marks,
                acts: 1,
                used: 0,
            }),
        }
    }

    /// Takes out an act that was added.
    pub fn remove(&mut self, marks: Marks) {
        if let Some(pool) = self.pools.iter_mut().find(|pool| pool.marks == marks) {
            pool.acts -= 1;
        }
    }

    /// Fills a step, if that can be done without giving up another one.
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
            if *visited_pool || pool.marks & (1 << step) == 0 {
                continue;
            }
            *visited_pool = true;
            let is_free = pool.used < pool.acts;
            if is_free {
                pool.used += 1;
            }
            if is_free || self.free_an_act(place, visited) {
                if let Some(filled) = self.filled.get_mut(step) {
                    *filled = Some(place);
                }
                return true;
            }
        }
        false
    }

    /// Lets a step that this pool fills be filled by another one.
    fn free_an_act(&mut self, place: usize, visited: &mut [bool]) -> bool {
        (0..MAX_STEPS)
            .any(|step| self.filled.get(step) == Some(&Some(place)) && self.augment(step, visited))
    }

    /// Fills one more of so many steps, if that can be done.
    pub fn grow(&mut self, steps: usize) -> bool {
        (0..steps).any(|step| self.filled.get(step) == Some(&None) && self.fill(step))
    }

    /// How many of so many steps can be filled.
    pub fn size(&mut self, steps: usize) -> usize {
        self.filled = [None; MAX_STEPS];
        for pool in &mut self.pools {
            pool.used = 0;
        }
        (0..steps).filter(|&step| self.fill(step)).count()
    }
}
