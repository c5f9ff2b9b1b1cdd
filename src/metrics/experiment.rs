//! Experiments: which variant converts better, and how sure that is.
//!
//! A user is assigned by the first exposure event, to the variant that its metadata names under the given key; an event without
//! the key is no exposure. A user exposed to several variants is counted in none and reported in the row `__multiple__`. A user
//! has converted with a goal event at or after the first exposure; an event that is an exposure is no goal.
//!
//! Of each variant: `rate` = converted / exposed; `lift` = rate / rate of the control − 1; its 95 % `interval` and the
//! two-sided `p_value` by Welch's test with the variance p(1 − p) and the delta method for a ratio of means (as
//! `GrowthBook` and `PostHog` do); `chance_to_win` = the posterior probability of a lift above zero under a flat prior. Below 50 exposures or
//! 5 conversions in either arm there are numbers and no `verdict`. The row `__sample_ratio__` has the chi-square
//! test of equal shares: a small `p_value` there says that the assignment is broken and nothing else can be believed.
//! Definitions: `spec/definitions.md`, "Paths, cohorts, experiments".

use polars::prelude::*;
use serde::Deserialize;
use statrs::distribution::{ChiSquared, ContinuousCDF, Normal, StudentsT};

use super::filter::{Filter, Property};
use super::table::Table;
use crate::error::Result;
use crate::schema;

/// Exposures of an arm below which there is no verdict.
const MIN_EXPOSED: u64 = 50;
/// Conversions of an arm below which there is no verdict.
const MIN_CONVERTED: u64 = 5;
/// Share of intervals that miss the truth.
const ALPHA: f64 = 0.05;
/// Name of the row of users who saw several variants.
const MULTIPLE: &str = "__multiple__";
/// Name of the row of the test of the shares.
const SAMPLE_RATIO: &str = "__sample_ratio__";

const EXPOSED_AT: &str = "exposed_at";
const VARIANT: &str = "variant";
const OTHER_VARIANT: &str = "other_variant";
const GOAL_AT: &str = "goal_at";
const EXPOSED: &str = "exposed";
const CONVERTED: &str = "converted";

/// The question.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// What an exposure is.
    pub exposure: Filter,
    /// The key of the metadata that names the variant.
    pub variant: String,
    /// What the goal is.
    pub goal: Filter,
    /// The variant that the others are compared with; the first by name if absent.
    #[serde(default)]
    pub control: Option<String>,
}

/// What is known of one arm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arm {
    /// The variant's name.
    pub variant: String,
    /// Users who saw it and no other.
    pub exposed: u64,
    /// Those of them who reached the goal.
    pub converted: u64,
}

/// How a variant compares with the control.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Relative difference of the rates.
    pub lift: f64,
    /// Ends of the 95 % interval of the lift.
    pub interval: (f64, f64),
    /// Probability of such a difference, or a greater one, if there were none.
    pub p_value: f64,
    /// Posterior probability that the variant is better.
    pub chance_to_win: f64,
}

impl Experiment {
    /// A row a user, from some of the events, whose users are numbers and that have metadata: first exposure, least and
    /// greatest variant, last goal. [`Experiment::merge`] makes one row a user of several.
    pub fn users(&self, events: LazyFrame) -> LazyFrame {
        let variant = Property::Metadata(self.variant.clone()).expr();
        let exposure = self.exposure.expr().and(variant.clone().is_not_null());
        let goal = self.goal.expr();
        let when = |condition: Expr, value: Expr| ternary_expr(condition, value, lit(NULL));
        let ts = col(schema::TS).to_physical();
        let rows = events
            .filter(
                col(schema::USER_ID)
                    .is_not_null()
                    .and(self.exposure.expr().or(goal.clone())),
            )
            .select([
                col(schema::USER_ID),
                when(exposure.clone(), ts.clone()).alias(EXPOSED_AT),
                when(exposure.clone(), variant.clone()).alias(VARIANT),
                when(exposure.clone(), variant).alias(OTHER_VARIANT),
                when(goal.and(self.exposure.expr().not()), ts).alias(GOAL_AT),
            ]);
        Self::merge(rows)
    }

    /// One row a user of several.
    pub fn merge(rows: LazyFrame) -> LazyFrame {
        rows.group_by([col(schema::USER_ID)]).agg([
            col(EXPOSED_AT).min(),
            col(VARIANT).min(),
            col(OTHER_VARIANT).max(),
            col(GOAL_AT).max(),
        ])
    }

    /// A row for each variant, by name: the variant, or null for users of several, and how many were exposed and converted.
    pub fn arms(users: LazyFrame) -> LazyFrame {
        let one_variant = col(VARIANT).eq(col(OTHER_VARIANT));
        users
            .filter(col(EXPOSED_AT).is_not_null())
            .select([
                ternary_expr(one_variant, col(VARIANT), lit(NULL)).alias(VARIANT),
                col(GOAL_AT)
                    .gt_eq(col(EXPOSED_AT))
                    .fill_null(lit(false))
                    .alias(CONVERTED),
            ])
            .group_by([col(VARIANT)])
            .agg([
                len().cast(DataType::Int64).alias(EXPOSED),
                col(CONVERTED).cast(DataType::Int64).sum(),
            ])
            .sort(
                [VARIANT],
                SortMultipleOptions::default().with_nulls_last(true),
            )
    }

    /// The answer where there are no events.
    pub fn answer_to_nothing(&self) -> Table {
        self.table(Vec::new(), 0)
    }

    /// The answer, from what [`Experiment::arms`] gave.
    ///
    /// # Errors
    /// If the frame lacks a column.
    pub fn answer(&self, arms: &DataFrame) -> Result<Table> {
        let mut multiple = 0;
        let mut found = Vec::new();
        let counts = arms.column(EXPOSED)?.i64()?.iter();
        let counts = counts.zip(arms.column(CONVERTED)?.i64()?.iter());
        for (variant, (exposed, converted)) in arms.column(VARIANT)?.str()?.iter().zip(counts) {
            let exposed = exposed.unwrap_or(0).unsigned_abs();
            match variant {
                None => multiple = exposed,
                Some(variant) => found.push(Arm {
                    variant: variant.to_owned(),
                    exposed,
                    converted: converted.unwrap_or(0).unsigned_abs(),
                }),
            }
        }
        Ok(self.table(found, multiple))
    }

    /// The answer, from the arms by name. The control is the first of them.
    fn table(&self, mut arms: Vec<Arm>, multiple: u64) -> Table {
        if let Some(control) = &self.control {
            let arm = match arms.iter().position(|arm| arm.variant == *control) {
                Some(place) => arms.remove(place),
                None => Arm {
                    variant: control.clone(),
                    exposed: 0,
                    converted: 0,
                },
            };
            arms.insert(0, arm);
        }
        table(&arms, multiple)
    }
}

fn table(arms: &[Arm], multiple: u64) -> Table {
    let control = arms.first();
    let mut variants: Vec<String> = arms.iter().map(|arm| arm.variant.clone()).collect();
    variants.extend([MULTIPLE.into(), SAMPLE_RATIO.into()]);
    let rates = arms
        .iter()
        .map(|arm| Some(arm.rate().unwrap_or(0.0)))
        .chain([None, None]);
    let mut comparisons: Vec<Option<Comparison>> = (0..)
        .zip(arms)
        .map(|(place, arm)| control.filter(|_| place > 0)?.compare(arm))
        .collect();
    let mut verdicts: Vec<Option<String>> = comparisons
        .iter()
        .zip(arms)
        .map(|(comparison, arm)| {
            let comparison = (*comparison)?;
            let enough = arm.is_enough() && control.is_some_and(Arm::is_enough);
            enough.then(|| comparison.verdict().into())
        })
        .collect();
    comparisons.extend([None, None]);
    verdicts.extend([None, None]);
    let of = |value: fn(&Comparison) -> f64| -> Vec<Option<f64>> {
        comparisons
            .iter()
            .map(|comparison| comparison.as_ref().map(value))
            .collect()
    };
    let mut p_values = of(|comparison| comparison.p_value);
    if let Some(last) = p_values.last_mut() {
        *last = sample_ratio(arms);
    }
    let total = arms.iter().map(|arm| arm.exposed).sum::<u64>();
    let exposed = arms.iter().map(|arm| arm.exposed).chain([multiple, total]);
    let converted = arms
        .iter()
        .map(|arm| Some(arm.converted))
        .chain([None, None]);
    Table::default()
        .with("variant", variants)
        .with("exposed", exposed.collect::<Vec<u64>>())
        .with("converted", converted.collect::<Vec<Option<u64>>>())
        .with("rate", rates.collect::<Vec<_>>())
        .with("lift", of(|comparison| comparison.lift))
        .with_in("interval", "low", of(|comparison| comparison.interval.0))
        .with_in("interval", "high", of(|comparison| comparison.interval.1))
        .with("p_value", p_values)
        .with("chance_to_win", of(|comparison| comparison.chance_to_win))
        .with("verdict", verdicts)
}

impl Arm {
    fn rate(&self) -> Option<f64> {
        (self.exposed > 0).then(|| self.converted as f64 / self.exposed as f64)
    }

    fn is_enough(&self) -> bool {
        self.exposed >= MIN_EXPOSED && self.converted >= MIN_CONVERTED
    }

    /// How another arm compares with this one, the control. `None` where nothing can be divided.
    pub fn compare(&self, arm: &Self) -> Option<Comparison> {
        let (control, treated) = (self.rate()?, arm.rate()?);
        let (n_control, n_treated) = (self.exposed as f64, arm.exposed as f64);
        if control == 0.0 {
            return None;
        }
        // Variance of each mean; of a proportion it is p(1 - p), without n / (n - 1).
        let var_control = control * (1.0 - control) / n_control;
        let var_treated = treated * (1.0 - treated) / n_treated;
        let lift = treated / control - 1.0;
        // Delta method for a ratio of independent means.
        let variance =
            var_treated / control.powi(2) + var_control * treated.powi(2) / control.powi(4);
        // Welch and Satterthwaite.
        let freedom = (var_control + var_treated).powi(2)
            / (var_control.powi(2) / (n_control - 1.0) + var_treated.powi(2) / (n_treated - 1.0));
        let error = variance.sqrt();
        let students = StudentsT::new(0.0, 1.0, freedom).ok()?;
        let normal = Normal::new(0.0, 1.0).ok()?;
        let score = lift / error;
        let reach = students.inverse_cdf(1.0 - ALPHA / 2.0) * error;
        Some(Comparison {
            lift,
            interval: (lift - reach, lift + reach),
            p_value: 2.0 * students.cdf(-score.abs()),
            chance_to_win: normal.cdf(score),
        })
    }
}

impl Comparison {
    fn verdict(&self) -> &'static str {
        match self.p_value < ALPHA {
            false => "no_difference",
            true if self.lift > 0.0 => "better",
            true => "worse",
        }
    }
}

/// Probability of shares as unequal as these, or more, if every user was as likely to get into each arm.
fn sample_ratio(arms: &[Arm]) -> Option<f64> {
    let total: u64 = arms.iter().map(|arm| arm.exposed).sum();
    let expected = total as f64 / arms.len() as f64;
    let statistic = arms
        .iter()
        .map(|arm| (arm.exposed as f64 - expected).powi(2) / expected)
        .sum::<f64>();
    let freedom = arms.len().checked_sub(1).filter(|&freedom| freedom > 0)?;
    let chi_squared = ChiSquared::new(freedom as f64).ok()?;
    Some(chi_squared.sf(statistic))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arm(variant: &str, exposed: u64, converted: u64) -> Arm {
        Arm {
            variant: variant.into(),
            exposed,
            converted,
        }
    }

    fn near(found: f64, expected: f64) -> bool {
        (found - expected).abs() < 1e-7
    }

    /// Worked out from the formulas with an integral of Student's density; for rates of 0.1 and 0.12 of 1,000 each the
    /// variance of the lift is 0.1056e-3 / 0.1² + 0.09e-3 · 0.12² / 0.1⁴ = 0.02352.
    #[test]
    fn the_comparison_is_that_of_the_closed_form() {
        for (control, treated, lift, interval, p_value, chance_to_win) in [
            (
                (1000, 100),
                (1000, 120),
                0.2,
                (-0.100_767_974_8, 0.500_767_974_8),
                0.192_350_207_0,
                0.903_900_481_8,
            ),
            (
                (400, 80),
                (100, 35),
                0.75,
                (0.165_023_131_2, 1.334_976_868_8),
                0.012_362_713_4,
                0.994_385_056_7,
            ),
            (
                (50, 5),
                (50, 5),
                0.0,
                (-1.190_680_472_7, 1.190_680_472_7),
                1.0,
                0.5,
            ),
        ] {
            let control = arm("a", control.0, control.1);
            let found = control
                .compare(&arm("b", treated.0, treated.1))
                .expect("rates");
            assert!(near(found.lift, lift), "{found:?}");
            assert!(
                near(found.interval.0, interval.0) && near(found.interval.1, interval.1),
                "{found:?}"
            );
            assert!(near(found.p_value, p_value), "{found:?}");
            assert!(near(found.chance_to_win, chance_to_win), "{found:?}");
        }
    }

    #[test]
    fn shares_that_are_too_unequal_are_seen() {
        let of = |exposed: &[u64]| {
            let arms: Vec<Arm> = exposed.iter().map(|&users| arm("x", users, 0)).collect();
            sample_ratio(&arms)
        };
        assert!(near(of(&[50, 60]).expect("two arms"), 0.340_355_742_4));
        assert!(near(
            of(&[100, 110, 120]).expect("three arms"),
            0.402_890_321_5
        ));
        assert!(of(&[400, 100]).expect("two arms") < 1e-40);
        assert_eq!(of(&[100]), None);
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn a_comparison_that_cannot_be_made_is_none_or_without_a_verdict() {
        assert_eq!(arm("a", 0, 0).compare(&arm("b", 10, 1)), None);
        assert_eq!(arm("a", 10, 0).compare(&arm("b", 10, 1)), None);
        let verdicts = |control: Arm, other: Arm| {
            let table = table(&[control, other], 0);
            let verdict = table.flat().pop().expect("columns");
            verdict.1.text(1).map(|text| text.into_owned())
        };
        assert_eq!(verdicts(arm("a", 49, 20), arm("b", 500, 20)), None);
        assert_eq!(verdicts(arm("a", 500, 4), arm("b", 500, 40)), None);
        assert_eq!(
            verdicts(arm("a", 500, 20), arm("b", 500, 60)),
            Some("better".into())
        );
        assert_eq!(
            verdicts(arm("a", 500, 60), arm("b", 500, 20)),
            Some("worse".into())
        );
        assert_eq!(
            verdicts(arm("a", 50, 5), arm("b", 50, 5)),
            Some("no_difference".into())
        );
    }
}
