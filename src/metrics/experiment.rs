//! Experiments: conversion by variant, and how significant the differences are.
//!
//! A user is assigned by the first exposure event, to the variant that its metadata has under the
//! given key; an event without the key is not an exposure. A user exposed to several variants is
//! counted in none and reported in the row `__multiple__`. A user has converted with a goal event
//! at or after the first exposure; an event that is an exposure is never a goal.
//!
//! Of each variant: `rate` = converted / exposed; `lift` = rate / rate of the control − 1; its 95%
//! `interval` and the two-sided `p_value` by Welch's test with the variance p(1 − p) and the delta
//! method for a ratio of means (as `GrowthBook` and `PostHog` do); `chance_to_win` = the posterior
//! probability of a lift above zero under a flat prior. Below 50 exposures or 5 conversions in
//! either arm there are numbers and no `verdict`. The row `__sample_ratio__` has the chi-square
//! test of the shares that `weights` gives, or of equal ones: a small `p_value` there says that the
//! assignment is broken and that nothing else can be relied on. Definitions: `docs/metrics.md`,
//! "Paths and experiments".

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use polars::prelude::*;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use statrs::distribution::{ChiSquared, ContinuousCDF, Normal, StudentsT};
use utoipa::ToSchema;

use super::filter::{Filter, Property, scalar_string};
use super::source::{Columns, Scan, Source};
use super::table::Table;
use super::{Answer, Measure};
use crate::error::{Error, ErrorCode, Result, shown};
use crate::event::number;
use crate::schema;

/// Exposures of an arm below which a comparison has no outcome.
const MIN_EXPOSED: u64 = 50;
/// Conversions of an arm below which a comparison has no outcome.
const MIN_CONVERTED: u64 = 5;
/// Most variants with a weight.
const MAX_WEIGHTS: usize = 100;
/// The range of a weight: any ratio of users that can be seen.
const MIN_WEIGHT: f64 = 1e-9;
const MAX_WEIGHT: f64 = 1e9;
/// Share of intervals that miss the truth.
const ALPHA: f64 = 0.05;
/// Name of the row of users who saw several variants.
const MULTIPLE: &str = "__multiple__";
/// Name of the row of the test of the shares.
const SAMPLE_RATIO: &str = "__sample_ratio__";

/// Frames with a row a user that are held before they are merged.
const MAX_FRAMES: usize = 8;
/// Frames are merged earlier if they take more than one part of so many of the query's memory. To
/// merge them takes twice as much in addition.
const FRAMES_SHARE: u64 = 6;
const MERGE_FACTOR: u64 = 3;
/// Most variants of a result: beyond it the key is not one of an experiment.
const MAX_VARIANTS: usize = 1_000;

const EXPOSED_AT: &str = "exposed_at";
const VARIANT: &str = "variant";
const OTHER_VARIANT: &str = "other_variant";
const GOAL_AT: &str = "goal_at";
const EXPOSED: &str = "exposed";
const CONVERTED: &str = "converted";

/// The parameters.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// The filter of exposure events.
    pub exposure: Filter,
    /// The key of the metadata that names the variant.
    pub variant: String,
    /// The filter of goal events.
    pub goal: Filter,
    /// The variant that the others are compared with; the first by name if absent.
    #[serde(default, deserialize_with = "deserialize_control")]
    pub control: Option<String>,
    /// The shares of users that the variants should get, in any unit; equal ones if absent.
    #[serde(default)]
    pub weights: Option<Weights>,
}

/// Expected share of users of each variant, relative to the others.
#[derive(Debug, Clone, PartialEq, Deserialize, ToSchema)]
#[serde(try_from = "BTreeMap<String, f64>")]
pub struct Weights(BTreeMap<String, f64>);

/// Users of one variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arm {
    /// The variant's name.
    pub variant: String,
    /// Users who saw it and no other.
    pub exposed: u64,
    /// Those of them who reached the goal.
    pub converted: u64,
}

/// Comparison of a variant with the control.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Relative difference of the rates.
    pub lift: f64,
    /// Ends of the 95% interval of the lift.
    pub interval: (f64, f64),
    /// Probability of such a difference, or a greater one, if there were none.
    pub p_value: f64,
    /// Posterior probability that the variant is better.
    pub chance_to_win: f64,
}

impl Measure for Experiment {
    fn filters_mut(&mut self) -> Vec<&mut Filter> {
        vec![&mut self.exposure, &mut self.goal]
    }

    fn days_before(&self) -> u16 {
        0
    }

    fn run(&self, source: &dyn Source, _now: DateTime<Utc>) -> Result<Answer> {
        let scan = Scan::of_window(source, Columns::Details);
        let mut frames: Vec<DataFrame> = Vec::new();
        let mut charge = source.budget().charge();
        let full_bytes = source.budget().bytes() / FRAMES_SHARE;
        let mut merged_bytes = 0;
        source.for_each_batch(&scan, &|events| self.users(events), &mut |frame| {
            frames.push(frame.clone());
            let bytes: u64 = frames.iter().map(bytes_of).sum();
            charge.set(bytes * MERGE_FACTOR)?;
            // Not each frame after a large one: that would take the square of their number.
            if frames.len() > MAX_FRAMES || bytes > full_bytes.max(2 * merged_bytes) {
                let merged = source.apply(std::mem::take(&mut frames), &Self::merge)?;
                merged_bytes = bytes_of(&merged);
                charge.set(merged_bytes * MERGE_FACTOR)?;
                frames.push(merged);
            }
            Ok(())
        })?;
        if frames.is_empty() {
            return Ok(self.table(Vec::new(), 0).into());
        }
        let users = source.apply(frames, &Self::merge)?;
        let users = match source.cohort() {
            None => users,
            Some(cohort) => {
                let included = users.column(schema::USER_ID)?.u32()?;
                let included = included
                    .iter()
                    .map(|user| user.is_some_and(|user| cohort.contains(user)));
                users.filter(&included.collect())?
            }
        };
        let arms = source.apply(vec![users], &Self::arms)?;
        if arms.height() > MAX_VARIANTS {
            let (found, key) = (arms.height(), shown(&self.variant));
            return Err(Error::bad_input(
                ErrorCode::TooManyGroups,
                format!("{key:?} has {found} variants; allowed are {MAX_VARIANTS}"),
            ));
        }
        Ok(self.read(&arms)?.into())
    }
}

impl Experiment {
    /// A row for each user of some events: first exposure, least and greatest variant, last goal.
    fn users(&self, events: LazyFrame) -> LazyFrame {
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

    /// One row for each user of several.
    fn merge(rows: LazyFrame) -> LazyFrame {
        rows.group_by([col(schema::USER_ID)]).agg([
            col(EXPOSED_AT).min(),
            col(VARIANT).min(),
            col(OTHER_VARIANT).max(),
            col(GOAL_AT).max(),
        ])
    }

    /// A row for each variant, by name: the variant, or null for users of several, exposed and
    /// converted users.
    fn arms(users: LazyFrame) -> LazyFrame {
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

    fn read(&self, arms: &DataFrame) -> Result<Table> {
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

    /// The rows, from the arms by name. The control is the first of them.
    pub fn table(&self, mut arms: Vec<Arm>, multiple: u64) -> Table {
        for (variant, _) in self.weights.iter().flat_map(|weights| &weights.0) {
            if !arms.iter().any(|arm| arm.is_named(variant)) {
                arms.push(Arm::unseen(variant));
            }
        }
        arms.sort_by(|one, other| one.variant.cmp(&other.variant));
        if let Some(control) = &self.control {
            let arm = match arms.iter().position(|arm| arm.is_named(control)) {
                Some(place) => arms.remove(place),
                None => Arm::unseen(control),
            };
            arms.insert(0, arm);
        }
        table(&arms, multiple, self.weights.as_ref())
    }
}

/// Bytes of a frame in memory.
fn bytes_of(frame: &DataFrame) -> u64 {
    frame.estimated_size() as u64
}

fn table(arms: &[Arm], multiple: u64, weights: Option<&Weights>) -> Table {
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
        *last = sample_ratio(arms, weights);
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
    /// One without users.
    fn unseen(variant: &str) -> Self {
        Self {
            variant: number::canonical(variant).into_owned(),
            exposed: 0,
            converted: 0,
        }
    }

    /// True if a name is that of this variant, or another notation of the same number.
    fn is_named(&self, name: &str) -> bool {
        self.variant == name || self.variant == number::canonical(name)
    }

    fn rate(&self) -> Option<f64> {
        (self.exposed > 0).then(|| self.converted as f64 / self.exposed as f64)
    }

    fn is_enough(&self) -> bool {
        self.exposed >= MIN_EXPOSED && self.converted >= MIN_CONVERTED
    }

    /// Compares another arm with this one, the control. `None` if a rate is undefined or the
    /// control's is 0.
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
        if self.p_value >= ALPHA {
            "no_difference"
        } else if self.lift > 0.0 {
            "better"
        } else {
            "worse"
        }
    }
}

/// Probability of a split of the users as far from the expected shares as this one, or farther.
/// Without weights the expected shares are equal.
fn sample_ratio(arms: &[Arm], weights: Option<&Weights>) -> Option<f64> {
    let weight = |arm: &Arm| weights.map_or(1.0, |weights| weights.of(arm));
    let total: u64 = arms.iter().map(|arm| arm.exposed).sum();
    let all: f64 = arms.iter().map(weight).sum();
    // Users in an arm of weight 0 are impossible, and such an arm without users is not part of the
    // test.
    let possible = || arms.iter().filter(|&arm| weight(arm) > 0.0);
    if total > possible().map(|arm| arm.exposed).sum() {
        return Some(0.0);
    }
    let statistic = possible().map(|arm| {
        let expected = total as f64 * weight(arm) / all;
        (arm.exposed as f64 - expected).powi(2) / expected
    });
    let freedom = possible().count().checked_sub(1);
    let freedom = freedom.filter(|&freedom| freedom > 0 && total > 0)?;
    let chi_squared = ChiSquared::new(freedom as f64).ok()?;
    Some(chi_squared.sf(statistic.sum()))
}

impl Weights {
    /// The weight of an arm; 0 if it has none.
    fn of(&self, arm: &Arm) -> f64 {
        let mut weights = self.0.iter();
        weights
            .find(|(variant, _)| arm.is_named(variant))
            .map_or(0.0, |(_, weight)| *weight)
    }
}

impl TryFrom<BTreeMap<String, f64>> for Weights {
    type Error = String;

    fn try_from(weights: BTreeMap<String, f64>) -> Result<Self, String> {
        if !(2..=MAX_WEIGHTS).contains(&weights.len()) {
            return Err(format!(
                "weights has {} variants; allowed are 2 to {MAX_WEIGHTS}",
                weights.len()
            ));
        }
        if let Some((variant, weight)) = weights
            .iter()
            .find(|(_, weight)| !(MIN_WEIGHT..=MAX_WEIGHT).contains(*weight))
        {
            return Err(format!(
                "weights: {variant:.64?} has {weight}; allowed is {MIN_WEIGHT} to {MAX_WEIGHT}"
            ));
        }
        let mut names: Vec<_> = weights.keys().map(|name| number::canonical(name)).collect();
        names.sort_unstable();
        names.dedup();
        if names.len() == weights.len() {
            Ok(Self(weights))
        } else {
            Err("weights has two notations of one variant".into())
        }
    }
}

/// A variant: a string, number or boolean.
fn deserialize_control<'de, D: Deserializer<'de>>(value: D) -> Result<Option<String>, D::Error> {
    match Value::deserialize(value)? {
        Value::Null => Ok(None),
        value => scalar_string(&value).map(Some).ok_or_else(|| {
            D::Error::custom(format!(
                "control is {value:.64}; allowed is the name of a variant"
            ))
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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

    #[test]
    fn users_of_several_variants_and_goals_before_the_exposure_do_not_count() {
        let at = |time: &'static str, user, feature, v| ((time, "action", user, feature), v);
        let (a, b) = (r#"{"v":"a"}"#, r#"{"v":"b"}"#);
        let mut source = crate::metrics::frame::FrameSource::with_metadata(
            "2024-03-01",
            1,
            &[
                at("2024-03-01 10:00", "ann", "home", a),
                at("2024-03-01 10:00", "ann", "buy", ""),
                at("2024-03-01 09:00", "bob", "buy", ""),
                at("2024-03-01 10:00", "bob", "home", b),
                at("2024-03-01 10:00", "cyd", "home", b),
                at("2024-03-01 12:00", "cyd", "buy", ""),
                at("2024-03-01 10:00", "dan", "home", a),
                at("2024-03-01 11:00", "dan", "home", b),
                // Without a variant.
                at("2024-03-01 10:00", "eve", "home", ""),
                at("2024-03-01 11:00", "eve", "buy", ""),
            ],
        );
        // More batches than frames that are held.
        source.batch_rows = 1;
        let query = json!({"metric":"experiment","exposure":{"feature":"home"},"variant":"v",
                           "goal":{"feature":"buy"}});
        let rows = source.rows(query);
        let rows = rows.as_array().expect("rows").iter();
        let rows: Vec<String> = rows
            .map(|row| format!("{} {} {}", row["variant"], row["exposed"], row["converted"]))
            .collect();
        let expected = [
            r#""a" 1 1"#,
            r#""b" 2 1"#,
            r#""__multiple__" 1 null"#,
            r#""__sample_ratio__" 3 null"#,
        ];
        assert_eq!(rows, expected);
    }

    /// Worked out from the formulas with an integral of Student's density; for rates of 0.1 and
    /// 0.12 of 1,000 each the variance of the lift is 0.1056e-3 / 0.1² + 0.09e-3 · 0.12² / 0.1⁴ =
    /// 0.02352.
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
            sample_ratio(&arms, None)
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

    /// By chi-square with expected counts of the shares: 900 and 100 at 9:1 are exact; 60, 30 and
    /// 10 at 5:3:2 give (60 − 50)² / 50 + (10 − 20)² / 20 = 7 with two degrees of freedom,
    /// e^(−7/2).
    #[test]
    fn shares_are_compared_with_the_weights_of_the_variants() {
        let weights = |json: Value| serde_json::from_value::<Weights>(json);
        let of = |arms: &[(&str, u64)], json: Value| {
            let arms: Vec<Arm> = arms
                .iter()
                .map(|(name, users)| arm(name, *users, 0))
                .collect();
            sample_ratio(&arms, Some(&weights(json).expect("weights")))
        };
        let nine_to_one = json!({"a": 9, "b": 1});
        assert!(near(
            of(&[("a", 900), ("b", 100)], nine_to_one.clone()).expect("arms"),
            1.0
        ));
        assert!(of(&[("a", 500), ("b", 500)], nine_to_one.clone()).expect("arms") < 1e-100);
        assert!(near(
            of(
                &[("x", 60), ("y", 30), ("z", 10)],
                json!({"x": 0.5, "y": 0.3, "z": 0.2})
            )
            .expect("arms"),
            (-3.5_f64).exp()
        ));
        assert!(near(
            of(&[("1", 900), ("2", 100)], json!({"1.0": 9, "2": 1})).expect("arms"),
            1.0
        ));
        assert_eq!(
            of(&[("a", 90), ("b", 10), ("c", 1)], nine_to_one.clone()),
            Some(0.0)
        );
        assert_eq!(of(&[("a", 0), ("b", 0)], nine_to_one), None);
        for wrong in [
            json!({}),
            json!({"a": 1}),
            json!({"a": 0, "b": 1}),
            json!({"a": -1, "b": 1}),
            json!({"1": 1, "1.0": 1}),
        ] {
            assert!(weights(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_comparison_of_too_few_users_is_null_or_has_no_outcome() {
        assert_eq!(arm("a", 0, 0).compare(&arm("b", 10, 1)), None);
        assert_eq!(arm("a", 10, 0).compare(&arm("b", 10, 1)), None);
        let verdicts = |control: Arm, other: Arm| {
            let table = table(&[control, other], 0, None);
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
