//! The users of a synthetic history: when each is active, and what a site knows of a visitor.

use rand::rngs::{SmallRng, StdRng};
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, Exp, LogNormal};
use uuid::Builder;

use super::parameters::{Demo, part_seed, wrong_distribution};
use crate::error::Result;

/// Mean number of days that a user stays.
const STAY_DAYS: f64 = 60.0;
/// Share of the users who return after an absence, for a second stay.
const RETURNING_SHARE: f64 = 0.35;
/// Mean number of days of the absence, beyond the shortest.
const ABSENCE_DAYS: f64 = 45.0;
const SHORTEST_ABSENCE_DAYS: u32 = 14;

const PLANS: [&str; 4] = ["free", "free", "pro", "team"];
const PLATFORMS: [&str; 5] = ["web", "web", "web", "ios", "android"];
/// From the most frequent to the rarest.
const COUNTRIES: [&str; 16] = [
    "US", "DE", "GB", "IN", "FR", "BR", "CA", "NL", "ES", "PL", "SE", "JP", "AU", "IT", "MX", "ZA",
];
/// Exponent of the choice of a country: the first has two fifths of the visitors.
const COUNTRY_EXPONENT: i32 = 3;

/// A visitor of a site.
pub struct Visitor {
    /// The user id; `None` if the visitor never signs in.
    pub id: Option<String>,
    pub plan: &'static str,
    pub platform: &'static str,
    pub country: &'static str,
}

/// A period in which a user is active.
struct Stay {
    first_day: u32,
    last_day: u32,
    /// Code of the user.
    user: u32,
    weight: f32,
}

/// The users of a history. Nothing but their stays is held: the rest follows from a user's code.
pub struct Users {
    seed: u64,
    stays: Vec<Stay>,
}

/// The users who are active on a day.
pub struct Active {
    users: Vec<u32>,
    /// Sums of the weights up to each user.
    sums: Vec<f64>,
}

impl Users {
    /// # Errors
    /// None with the constants above.
    pub fn new(demo: &Demo, rng: &mut StdRng) -> Result<Self> {
        let stay = Exp::new(1.0 / STAY_DAYS).map_err(wrong_distribution)?;
        let absence = Exp::new(1.0 / ABSENCE_DAYS).map_err(wrong_distribution)?;
        let weight = LogNormal::<f32>::new(0.0, 1.2).map_err(wrong_distribution)?;
        let mut stays = Vec::with_capacity(demo.users as usize);
        for user in 0..demo.users {
            let weight = weight.sample(rng);
            let first_day = (rng.random::<f64>() * f64::from(demo.days)) as u32;
            let last_day = first_day + stay.sample(rng) as u32;
            stays.push(Stay {
                first_day,
                last_day,
                user,
                weight,
            });
            if rng.random_bool(RETURNING_SHARE) {
                let first_day = last_day + SHORTEST_ABSENCE_DAYS + absence.sample(rng) as u32;
                let last_day = first_day + stay.sample(rng) as u32;
                if first_day < demo.days {
                    stays.push(Stay {
                        first_day,
                        last_day,
                        user,
                        weight,
                    });
                }
            }
        }
        Ok(Self {
            seed: demo.seed,
            stays,
        })
    }

    /// The users who are active on a day.
    pub fn active_on(&self, day: u32) -> Active {
        let mut active = Active {
            users: Vec::new(),
            sums: Vec::new(),
        };
        let mut sum = 0.0;
        for stay in &self.stays {
            if (stay.first_day..=stay.last_day).contains(&day) {
                sum += f64::from(stay.weight);
                active.users.push(stay.user);
                active.sums.push(sum);
            }
        }
        active
    }

    /// The user with a code. Every other id is a UUID, the rest are short.
    pub fn user(&self, code: u32) -> Visitor {
        let mut rng = SmallRng::seed_from_u64(part_seed(self.seed, code));
        let id = match code % 2 {
            0 => Builder::from_random_bytes(rng.random())
                .into_uuid()
                .to_string(),
            _ => format!("user_{code}"),
        };
        Visitor {
            id: Some(id),
            ..Visitor::new(&mut rng)
        }
    }
}

impl Visitor {
    /// The visitor of a session who never signs in.
    pub fn anonymous(session: u64) -> Self {
        Self::new(&mut SmallRng::seed_from_u64(session))
    }

    fn new(rng: &mut SmallRng) -> Self {
        let country = rng.random::<f64>().powi(COUNTRY_EXPONENT) * COUNTRIES.len() as f64;
        Self {
            id: None,
            plan: pick(&PLANS, rng),
            platform: pick(&PLATFORMS, rng),
            country: COUNTRIES.get(country as usize).copied().unwrap_or_default(),
        }
    }
}

impl Active {
    /// One of the users, by weight; `None` if none is active.
    pub fn pick(&self, rng: &mut StdRng) -> Option<u32> {
        let at = rng.random::<f64>() * self.sums.last()?;
        let index = self.sums.partition_point(|sum| *sum < at);
        self.users.get(index).copied()
    }
}

fn pick(from: &[&'static str], rng: &mut SmallRng) -> &'static str {
    let index = rng.random_range(0..from.len());
    from.get(index).copied().unwrap_or_default()
}
