//! The SQL of each metric over `scoped`. Only counts are computed, and of periods without events
//! there is no row: [`super::answer`] adds what follows from the window.

use chrono::{DateTime, Utc};

use super::scope::{Before, ReadDays, STEP, Scope, all_days, last_period};
use super::{QueryContext, Writer, cohort, condition, fixed, not_portable, renamed, with};
use crate::error::Result;
use crate::metrics::active_users::ActiveUsers;
use crate::metrics::experiment::Experiment;
use crate::metrics::feature_usage::FeatureUsage;
use crate::metrics::filter::{Condition, Filter, Predicate, Property};
use crate::metrics::funnel::Funnel;
use crate::metrics::funnel::attempt::Order;
use crate::metrics::lifecycle::Lifecycle;
use crate::metrics::paths::{By, Paths};
use crate::metrics::query::Query;
use crate::metrics::retention::{CohortOf, Retention, Returning};
use crate::metrics::sessions::{SessionEvent, Sessions};
use crate::metrics::trends::timeline::Timeline;
use crate::metrics::trends::{Measured, TrendGrain, Trends};
use crate::metrics::{MAX_GROUPS, Metric, OTHER};
use crate::window::{Grain, Window};

/// Writes the SQL of a query.
///
/// # Errors
/// `not_portable`, with the part of the query that it is about, and `unknown_cohort`.
pub fn write(
    query: &Query,
    window: &Window,
    context: QueryContext<'_>,
    writer: &mut Writer,
) -> Result<(String, Scope)> {
    let mut scope = Scope::new(window, &[]);
    let mut texts = match &query.metric {
        Metric::ActiveUsers(metric) => active_users(metric, window, &mut scope, writer),
        Metric::FeatureUsage(metric) => feature_usage(metric, &mut scope, writer)?,
        Metric::EventTypes(_) => {
            scope.columns.push("event_type");
            Texts::of(&[], EVENT_TYPES)
        }
        Metric::Trends(metric) => trends(metric, window, context.now, &mut scope, writer)?,
        Metric::Sessions(metric) => sessions(metric, window, &mut scope, writer)?,
        Metric::Lifecycle(metric) => lifecycle(metric, window, &mut scope, writer),
        Metric::Stickiness(metric) => {
            scope.grain = Some(metric.grain.into());
            Texts::of(&[("habits", HABITS)], STICKINESS)
        }
        Metric::Funnel(metric) => funnel(metric, &mut scope, writer)?,
        Metric::Retention(metric) => retention(metric, &mut scope, writer)?,
        Metric::Paths(metric) => paths(metric, &mut scope, writer)?,
        Metric::Experiment(metric) => experiment(metric, &mut scope, writer)?,
        Metric::Events(metric) => {
            scope
                .columns
                .extend(["position", "event_type", "feature", "metadata", "url"]);
            scope.columns.push("event_id");
            let received = writer.dialect.microseconds("received_at");
            scope.compute("received_us", received);
            writer.number("max_rows", metric.limit as i64);
            let mut texts = Texts::of(&[("held", HELD)], EVENTS);
            let mut source = "held";
            if let Some(before) = &metric.before {
                let (ts_us, user, number) = before.parts();
                writer.number("before_us", ts_us);
                writer.number("before_number", i64::try_from(number).unwrap_or(i64::MAX));
                let user = writer.string(user.unwrap_or_default());
                texts.add("numbered", NUMBERED_EVENTS.to_owned());
                texts.add("paged", PAGED_EVENTS.replace("{user}", &user));
                source = "paged";
            }
            texts.add("ranked", RANKED_EVENTS.replace("{source}", source));
            texts
        }
    };
    let mut days: Vec<ReadDays> = Vec::new();
    let mut scopes = vec![&mut scope];
    scopes.extend(texts.earlier.as_mut().map(|(scope, _)| scope));
    let mut expressions = cohort::limit(query, window, context, &mut scopes, &mut days, writer)?;
    expressions.extend(scope.write(&query.filter, window, writer)?);
    if let Some((earlier, of)) = &mut texts.earlier {
        expressions.extend(earlier.write(&query.filter, of, writer)?);
        days.push(earlier.days);
    }
    expressions.extend(texts.expressions);
    scope.days = days.into_iter().fold(scope.days, all_days);
    Ok((with(&expressions, &texts.select), scope))
}

/// Writes the SQL of usage.
///
/// # Errors
/// `not_portable` for a zone whose clock repeats a midnight.
pub fn usage(window: &Window, writer: &mut Writer) -> Result<(String, Scope)> {
    let mut scope = Scope::new(window, &["event_type", "feature"]);
    scope.grain = Some(TrendGrain::Week);
    let mut expressions = scope.write(&Filter::default(), window, writer)?;
    expressions.extend(Texts::of(USAGE, "").expressions);
    Ok((with(&expressions, USAGE_SELECT), scope))
}

const USAGE: &[(&str, &str)] = &[
    (
        "days",
        "select day_num, count(distinct user_id) as users\nfrom scoped\ngroup by day_num",
    ),
    (
        "weeks",
        "select period_num, count(distinct user_id) as users\nfrom scoped\ngroup by period_num",
    ),
    (
        "counted",
        "
select 'days' as kind, '' as name, count(*) as quantity, coalesce(sum(users), 0) as user_sum
from days
union all
select 'weeks' as kind, '' as name, count(*) as quantity, coalesce(sum(users), 0) as user_sum
from weeks
union all
select 'window' as kind, '' as name, count(*) as quantity, count(distinct user_id) as user_sum
from scoped
union all
select 'feature' as kind, feature as name, count(*) as quantity, 0 as user_sum
from scoped
where feature is not null
group by feature
union all
select 'type' as kind, event_type as name, count(*) as quantity, 0 as user_sum
from scoped
group by event_type",
    ),
];
const USAGE_SELECT: &str = "
select kind, name, quantity, user_sum
from counted
order by kind, quantity desc, name";

/// The common table expressions after `scoped`, and the `select`.
struct Texts {
    expressions: Vec<(String, String)>,
    select: String,
    /// The events of the window that another is compared with, as `earlier_scoped`.
    earlier: Option<(Scope, Window)>,
}

impl Texts {
    fn of(expressions: &[(&str, &str)], select: &str) -> Self {
        let mut texts = Self {
            expressions: Vec::new(),
            select: select.to_owned(),
            earlier: None,
        };
        for (name, body) in expressions {
            texts.add(*name, (*body).to_owned());
        }
        texts
    }

    fn add(&mut self, name: impl Into<String>, body: String) {
        self.expressions.push((name.into(), body));
    }
}

/// The columns by which events are grouped: the value of a property, and whether it is missing.
fn compute_group(property: &Property, scope: &mut Scope, writer: &mut Writer) -> Result<()> {
    let value = condition::value(property, writer)?;
    scope.compute(
        "is_missing",
        format!("case when {value} is null then 1 else 0 end"),
    );
    scope.compute(
        "of_group",
        format!("case when {value} is null then '' else {value} end"),
    );
    Ok(())
}

fn feature_usage(metric: &FeatureUsage, scope: &mut Scope, writer: &mut Writer) -> Result<Texts> {
    scope.columns.push("feature");
    writer.number("max_rows", metric.limit as i64);
    let mut texts = Texts::of(&[("used", USED)], &fixed::FEATURE_USAGE.select());
    texts
        .expressions
        .extend(fixed::FEATURE_USAGE.expressions(&["ranked"]));
    if let Some(property) = &metric.breakdown {
        compute_group(property, scope, writer)?;
        writer.number("max_groups", MAX_GROUPS as i64);
        for (name, body) in FEATURE_GROUPS {
            texts.add(*name, body.replace("'other'", &format!("'{OTHER}'")));
        }
        texts.select = FEATURE_USAGE_GROUPS.to_owned();
    }
    Ok(texts)
}

// Groups have their places by the events of all features.
const FEATURE_GROUPS: &[(&str, &str)] = &[
    (
        "used_groups",
        "
select is_missing, of_group, count(*) as uses
from scoped
where feature is not null
group by is_missing, of_group",
    ),
    (
        "ranked_groups",
        "
select
  is_missing,
  of_group,
  count(*) over (
    order by uses desc, is_missing desc, of_group rows between unbounded preceding and current row
  ) as place
from used_groups",
    ),
    (
        "named_groups",
        "
select
  is_missing,
  of_group,
  case when place <= :max_groups and is_missing = 1 then 'missing' else 'value' end as kind,
  case when place <= :max_groups then of_group else 'other' end as group_name
from ranked_groups",
    ),
    (
        "sorted",
        "
select
  ranked.place as place,
  scoped.feature as feature,
  named_groups.kind as kind,
  named_groups.group_name as group_name,
  scoped.user_id as user_id
from scoped
join ranked on ranked.feature = scoped.feature
join named_groups on named_groups.is_missing = scoped.is_missing and named_groups.of_group = scoped.of_group
where ranked.place <= :max_rows",
    ),
];
const FEATURE_USAGE_GROUPS: &str = "
select place, feature, kind, group_name, count(*) as uses, count(distinct user_id) as users
from sorted
group by place, feature, kind, group_name
order by place, kind, group_name";

const USED: &str = "
select feature, count(*) as uses, count(distinct user_id) as users
from scoped
where feature is not null
group by feature";
const EVENT_TYPES: &str = "
select event_type, count(*) as occurrences, count(distinct user_id) as users
from scoped
group by event_type
order by event_type";

fn active_users(
    metric: &ActiveUsers,
    window: &Window,
    scope: &mut Scope,
    writer: &mut Writer,
) -> Texts {
    if metric.grain != Grain::Day {
        scope.grain = Some(metric.grain.into());
        return Texts::of(&[], ACTIVE_PERIODS);
    }
    scope.before = Before::Days(29);
    writer.number("from_num", i64::from(window.first_day().to_epoch_days()));
    writer.number("to_num", i64::from(window.last_day().to_epoch_days()));
    let mut texts = Texts::of(&[("active", ACTIVE)], &fixed::ACTIVE_USERS.select());
    texts.expressions.extend(fixed::ACTIVE_USERS.expressions(&[
        "placed", "followed", "begun", "covered", "steps", "changes", "counted",
    ]));
    texts
}

const ACTIVE_PERIODS: &str = "
select period_num, count(distinct user_id) as users
from scoped
where user_id is not null
group by period_num
order by period_num";

const ACTIVE: &str = "
select distinct user_id, day_num
from scoped
where user_id is not null";

const ACTIVE_IN_PERIODS: &str = "
select distinct user_id, period_num
from scoped
where user_id is not null";

fn lifecycle(metric: &Lifecycle, window: &Window, scope: &mut Scope, writer: &mut Writer) -> Texts {
    scope.grain = Some(metric.grain.into());
    scope.before = Before::All;
    writer.number("last_period", last_period(window, metric.grain));
    let active = [("active", ACTIVE_IN_PERIODS)];
    let mut texts = Texts::of(&active, &fixed::LIFECYCLE.select());
    let parts = ["aged", "marks", "states", "counted"];
    texts
        .expressions
        .extend(fixed::LIFECYCLE.expressions(&parts));
    texts
}

const HABITS: &str = "
select user_id, count(distinct period_num) as active_periods
from scoped
where user_id is not null
group by user_id";
const STICKINESS: &str = "
select active_periods, count(*) as users
from habits
group by active_periods
order by active_periods";

fn sessions(
    metric: &Sessions,
    window: &Window,
    scope: &mut Scope,
    writer: &mut Writer,
) -> Result<Texts> {
    scope.columns.push("position");
    scope.grain = Some(metric.grain);
    scope.before = Before::Days(1);
    writer.number("from_num", i64::from(window.first_day().to_epoch_days()));
    let grain = metric.grain.calendar();
    writer.number(
        "last_period",
        grain.map_or(0, |grain| last_period(window, grain)),
    );
    let group = match &metric.breakdown {
        None => "",
        Some(property) => {
            compute_group(property, scope, writer)?;
            writer.number("max_groups", metric.limit as i64);
            "  is_missing,\n  of_group,\n"
        }
    };
    let select = fixed::SESSIONS.select();
    let mut texts = Texts::of(&[], &select);
    texts.add("placed", PLACED_EVENTS.replace("{group}", group));
    let parts = ["followed", "marks", "starts", "numbered", "bounded"];
    texts
        .expressions
        .extend(fixed::SESSIONS.expressions(&parts));
    let (source, group) = match metric.breakdown {
        None => ("bounded", String::new()),
        Some(_) => {
            let of_session = match metric.breakdown_of {
                SessionEvent::First => "min(place)",
                SessionEvent::Last => "max(place)",
            };
            for (name, body) in SESSION_GROUPS {
                texts.add(*name, body.replace("{of_session}", of_session));
            }
            texts.add("placed_groups", placed_groups("ranked_groups"));
            texts.add("sorted", SORTED_SESSIONS.to_owned());
            ("sorted", format!(" + {GROUP_STEP} * group_place"))
        }
    };
    let begun = BEGUN_SESSIONS.replace("{source}", source);
    texts.add("begun", begun.replace("{group}", &group));
    let parts = ["sizes", "ranked", "distances", "counted"];
    texts
        .expressions
        .extend(fixed::SESSIONS.expressions(&parts));
    if metric.breakdown.is_some() {
        let (counts, _) = select.split_once("\norder by").unwrap_or((&select, ""));
        texts.add("summed", counts.to_owned());
        let step = GROUP_STEP.to_string();
        texts.add("listed", LISTED_SESSIONS.replace("{step}", &step));
        texts.select = LISTED_SELECT.to_owned();
    }
    Ok(texts)
}

const PLACED_EVENTS: &str = "
select
  user_id,
  ts_us,
  day_num,
  period_num,
{group}  count(*) over (
    partition by user_id order by ts_us, position rows between unbounded preceding and current row
  ) as place
from scoped
where user_id is not null";
// The session of the window's eve is left out, and the period -7 stands for the whole window.
const BEGUN_SESSIONS: &str = "
select user_id, first_period{group} as first_period, visits, elapsed_us
from {source}
where first_num >= :from_num
union all
select user_id, -7{group} as first_period, visits, elapsed_us
from {source}
where first_num >= :from_num";
/// The distance of the periods of two groups of sessions, which is more than any time in µs.
pub const GROUP_STEP: i64 = 10_000_000_000_000_000;
// The group of a session is that of its first or last event, and part of its period.
const SESSION_GROUPS: &[(&str, &str)] = &[
    (
        "labelled",
        "
select
  placed.user_id as user_id,
  placed.place as place,
  placed.is_missing as is_missing,
  placed.of_group as of_group,
  sum(starts.is_start) over (
    partition by placed.user_id order by placed.place rows between unbounded preceding and current row
  ) as session_num
from placed
join starts on starts.user_id = placed.user_id and starts.place = placed.place",
    ),
    (
        "edges",
        "
select user_id, session_num, {of_session} as edge_place
from labelled
group by user_id, session_num",
    ),
    (
        "grouped",
        "
select
  bounded.user_id as user_id,
  bounded.first_num as first_num,
  bounded.first_period as first_period,
  bounded.visits as visits,
  bounded.elapsed_us as elapsed_us,
  labelled.is_missing as is_missing,
  labelled.of_group as of_group
from bounded
join edges on edges.user_id = bounded.user_id and edges.session_num = bounded.session_num
join labelled on labelled.user_id = edges.user_id and labelled.place = edges.edge_place
where bounded.first_num >= :from_num",
    ),
    (
        "totals",
        "
select is_missing, of_group, 1 as is_candidate, count(*) as total
from grouped
group by is_missing, of_group",
    ),
    (
        "ranked_groups",
        "
select
  is_missing,
  of_group,
  is_candidate,
  sum(1 - is_missing) over (
    order by is_missing, total desc, of_group rows between unbounded preceding and current row
  ) as place
from totals",
    ),
];
const SORTED_SESSIONS: &str = "
select
  grouped.user_id as user_id,
  grouped.first_num as first_num,
  grouped.first_period as first_period,
  grouped.visits as visits,
  grouped.elapsed_us as elapsed_us,
  placed_groups.group_place as group_place
from grouped
join placed_groups on placed_groups.is_missing = grouped.is_missing and placed_groups.of_group = grouped.of_group";
// The names of the groups, as those of the period -14.
const LISTED_SESSIONS: &str = "
select
  first_period,
  '' as kind,
  '' as group_name,
  session_count,
  users,
  visit_count,
  bounce_count,
  sum_us,
  median_2us,
  p90_10us
from summed
union all
select distinct
  {step} * group_place - 14 as first_period,
  kind,
  group_name,
  0 as session_count,
  0 as users,
  0 as visit_count,
  0 as bounce_count,
  0 as sum_us,
  0 as median_2us,
  0 as p90_10us
from placed_groups";
const LISTED_SELECT: &str = "
select
  first_period,
  kind,
  group_name,
  session_count,
  users,
  visit_count,
  bounce_count,
  sum_us,
  median_2us,
  p90_10us
from listed
order by first_period";

/// The property whose values tell steps apart, so that no event can be two of them.
fn disjoint(steps: &[Filter]) -> bool {
    let values = |filter: &Filter, property: &Property| {
        filter
            .conditions
            .iter()
            .find_map(|condition| match condition {
                Condition::Of {
                    property: found,
                    predicate: Predicate::OneOf(values),
                } if found == property => Some(values.clone()),
                _ => None,
            })
    };
    [Property::Feature, Property::EventType, Property::Url]
        .iter()
        .any(|property| {
            let of_steps: Option<Vec<Vec<String>>> =
                steps.iter().map(|step| values(step, property)).collect();
            of_steps.is_some_and(|of_steps| {
                let mut all: Vec<(usize, &String)> = (0..)
                    .zip(&of_steps)
                    .flat_map(|(step, values)| values.iter().map(move |value| (step, value)))
                    .collect();
                all.sort_unstable_by(|a, b| (a.1, a.0).cmp(&(b.1, b.0)));
                all.dedup();
                all.windows(2).all(|pair| match pair {
                    [(_, a), (_, b)] => a != b,
                    _ => true,
                })
            })
        })
}

fn funnel(metric: &Funnel, scope: &mut Scope, writer: &mut Writer) -> Result<Texts> {
    if metric.order != Order::Ordered {
        return Err(not_portable("order \"strict\" and \"any\""));
    }
    if !metric.exclude.is_empty() {
        return Err(not_portable("exclude"));
    }
    let overlaps = !disjoint(&metric.steps);
    let mut step = String::from("case");
    for (number, filter) in (1..).zip(&metric.steps) {
        if overlaps {
            let flag = condition::flag(filter, writer)?;
            scope.compute(format!("is_{number}"), flag);
            continue;
        }
        let condition = condition::of_filter(filter, writer)?.unwrap_or_else(|| "1 = 1".into());
        step += &format!(" when {condition} then {number}");
    }
    if !overlaps {
        scope.compute("step", format!("{step} else 0 end"));
    }
    let within = writer.number("within_us", metric.within.us);
    let count = metric.steps.len();
    let has_groups = metric.breakdown.is_some();
    if let Some(property) = &metric.breakdown {
        scope.columns.push("position");
        compute_group(property, scope, writer)?;
        writer.number("max_groups", MAX_GROUPS as i64);
    }
    let of_hits = if has_groups {
        ", position, is_missing, of_group"
    } else {
        ""
    };
    let mut texts = Texts::of(&[], &fixed::FUNNEL.select());
    if overlaps {
        add_overlapping_hits(count, of_hits, &mut texts);
    } else {
        let from = "from scoped where user_id is not null and step > 0";
        texts.add(
            "hits",
            format!("select user_id, ts_us, step{of_hits} {from}"),
        );
    }
    // An event fills the higher of its steps first, so that it never fills two of an attempt.
    let (keys, carried, not_twice) = match overlaps {
        true => (
            "user_id, ts_us, step, step_order",
            CARRIED.replace("step rows", "step_order rows"),
            " + 1 - hits.is_tied",
        ),
        false => ("user_id, ts_us, step", CARRIED.to_owned(), ""),
    };
    texts.add(
        "carried_1",
        format!(
            "select {keys}, max(case when step = 1 then ts_us else null end) {carried} as entry_1_us\nfrom hits"
        ),
    );
    // The latest entry that has reached each step. It never goes back in time, so that the first
    // completion of a step is also the one with the earliest entry.
    let list = |of: &str, numbers: std::ops::Range<usize>| -> String {
        numbers
            .map(|number| format!(" {of}_{number}_us,"))
            .collect()
    };
    for number in 2..=count {
        let before = number - 1;
        let kept = list("entry", 1..number) + &list("reached", 2..number);
        texts.add(
            format!("reached_{number}"),
            format!(
                "select {keys},{kept}\n  case when step = {number} and ts_us - entry_{before}_us <= {within} then \
                 entry_{before}_us else null end as reached_{number}_us\nfrom carried_{before}"
            ),
        );
        texts.add(
            format!("carried_{number}"),
            format!(
                "select {keys},{kept} reached_{number}_us,\n  max(reached_{number}_us) {carried} as \
                 entry_{number}_us\nfrom reached_{number}"
            ),
        );
    }
    let firsts: String = (2..=count)
        .map(|number| format!(",\n  min(reached_{number}_us) as first_{number}_us"))
        .collect();
    let opened = match has_groups {
        true => ",\n  min(case when step = 1 then ts_us else null end) as opened_us",
        false => "",
    };
    texts.add(
        "completions",
        format!(
            "select\n  user_id{firsts}{opened}\nfrom carried_{count}\nwhere entry_1_us is not null\ngroup by user_id"
        ),
    );
    let cases = |value: &dyn Fn(usize) -> String| -> String {
        let cases = (2..=count).rev();
        cases
            .map(|number| format!(" when first_{number}_us is not null then {}", value(number)))
            .collect()
    };
    texts.add(
        "attempts",
        format!(
            "select\n  user_id,\n  case{} else 1 end as reached,\n  case{} else {} end as time_1_us\nfrom completions",
            cases(&|number| number.to_string()),
            cases(&|number| format!("first_{number}_us")),
            if has_groups { "opened_us" } else { "0" },
        ),
    );
    let mut source = "attempts".to_owned();
    if has_groups {
        for (name, body) in FUNNEL_GROUPS {
            texts.add(*name, body.replace("'other'", &format!("'{OTHER}'")));
        }
        source = "grouped".into();
    }
    let step_of = |source: &str, number: usize| match has_groups {
        true => format!("{STEP_GROUP} * {source}.group_place + {number}"),
        false => number.to_string(),
    };
    // From the entry on, the earliest event of each step after that of the step before.
    let mut times = vec![format!(
        "select {} as step, 'first' as since, 0 as elapsed_us\nfrom {source}",
        step_of(&source, 1)
    )];
    for number in 2..=count {
        let before = number - 1;
        let name = format!("followed_{number}");
        let mut kept = vec!["user_id".to_owned(), "reached".into(), "time_1_us".into()];
        if has_groups {
            kept.push("group_place".into());
        }
        if before > 1 {
            kept.push(format!("time_{before}_us"));
        }
        let columns: String = kept
            .iter()
            .map(|column| format!("  {source}.{column} as {column},\n"))
            .collect();
        let keys: Vec<String> = kept
            .iter()
            .map(|column| format!("{source}.{column}"))
            .collect();
        texts.add(
            name.clone(),
            format!(
                "select\n{columns}  min(hits.ts_us) as time_{number}_us\nfrom {source}\njoin hits on hits.user_id = \
                 {source}.user_id\nwhere {source}.reached >= {number}\n  and hits.step = {number}\n  and hits.ts_us >= \
                 {source}.time_{before}_us{not_twice}\ngroup by {}",
                keys.join(", ")
            ),
        );
        for (since, from) in [("first", 1), ("previous", before)] {
            times.push(format!(
                "select {} as step, '{since}' as since, time_{number}_us - time_{from}_us as elapsed_us\nfrom {name}",
                step_of(&name, number)
            ));
        }
        source = name;
    }
    texts.add("times", times.join("\nunion all\n"));
    let parts = ["sizes", "ranked", "placed", "counted"];
    for (name, body) in fixed::FUNNEL.expressions(&parts) {
        // The first step and empty ones are not added here.
        let body = body
            .split_once("\nunion all\n")
            .map_or(body.as_str(), |(body, _)| body);
        let odd = if overlaps && name == "counted" {
            ODD_TIES
        } else {
            ""
        };
        texts.add(name, format!("{body}{odd}"));
    }
    if has_groups {
        let (counts, _) = texts.select.split_once("\norder by").unwrap_or_default();
        let counts = counts.to_owned();
        texts.add("summed", counts);
        let step = STEP_GROUP.to_string();
        texts.add("listed", LISTED_STEPS.replace("{step}", &step));
        texts.select = LISTED_STEPS_SELECT.to_owned();
    }
    Ok(texts)
}

/// Adds a hit for each step that an event meets, and the events of one user at one time, of which
/// one meets several steps: what each of them fills is a matching, which SQL does not have.
fn add_overlapping_hits(count: usize, more: &str, texts: &mut Texts) {
    let flags: Vec<String> = (1..=count).map(|number| format!("is_{number}")).collect();
    let (listed, sum) = (flags.join(", "), flags.join(" + "));
    texts.add(
        "marked",
        format!(
            "select user_id, ts_us, {listed}{more}, {sum} as step_count,\n  count(*) over (partition by user_id, ts_us) as \
             at_once\nfrom scoped\nwhere user_id is not null and {sum} > 0"
        ),
    );
    let hits = (1..=count).map(|number| {
        format!(
            "select user_id, ts_us, {number} as step{more},\n  case when at_once > 1 then {number} else -{number} end as \
             step_order,\n  case when at_once > 1 then 1 else 0 end as is_tied\nfrom marked\nwhere is_{number} = 1"
        )
    });
    let hits: Vec<String> = hits.collect();
    texts.add("hits", hits.join("\nunion all\n"));
}

// The number of such events, as the users of the step -1.
const ODD_TIES: &str = "
union all
select
  -1 as step,
  'first' as since,
  1 as users,
  0 as elapsed_us,
  0 as median_part,
  0 as p90_part
from marked
where at_once > 1
  and step_count > 1";

/// The distance of the steps of two groups of a funnel, which is more than any step.
pub const STEP_GROUP: i64 = 100;
// The group of an attempt is that of its first event, in the order of the log.
const FUNNEL_GROUPS: &[(&str, &str)] = &[
    (
        "openers",
        "
select
  attempts.user_id as user_id,
  attempts.reached as reached,
  attempts.time_1_us as time_1_us,
  hits.is_missing as is_missing,
  hits.of_group as of_group,
  count(*) over (
    partition by attempts.user_id order by hits.position rows between unbounded preceding and current row
  ) as opener_place
from attempts
join hits on hits.user_id = attempts.user_id and hits.ts_us = attempts.time_1_us
where hits.step = 1",
    ),
    (
        "opened",
        "
select user_id, reached, time_1_us, is_missing, of_group
from openers
where opener_place = 1",
    ),
    (
        "totals",
        "
select is_missing, of_group, count(*) as total
from opened
group by is_missing, of_group",
    ),
    (
        "ranked_groups",
        "
select
  is_missing,
  of_group,
  count(*) over (
    order by total desc, is_missing desc, of_group rows between unbounded preceding and current row
  ) as place
from totals",
    ),
    (
        "placed_groups",
        "
select
  is_missing,
  of_group,
  case when place <= :max_groups then place else :max_groups + 1 end as group_place,
  case when place <= :max_groups and is_missing = 1 then 'missing' else 'value' end as kind,
  case when place <= :max_groups then of_group else 'other' end as group_name
from ranked_groups",
    ),
    (
        "grouped",
        "
select
  opened.user_id as user_id,
  opened.reached as reached,
  opened.time_1_us as time_1_us,
  placed_groups.group_place as group_place
from opened
join placed_groups on placed_groups.is_missing = opened.is_missing and placed_groups.of_group = opened.of_group",
    ),
];
// The names of the groups, as those of a step 0.
const LISTED_STEPS: &str = "
select step, since, '' as kind, '' as group_name, users, sum_us, median_2us, p90_10us
from summed
union all
select distinct
  {step} * group_place as step,
  'first' as since,
  kind,
  group_name,
  0 as users,
  0 as sum_us,
  0 as median_2us,
  0 as p90_10us
from placed_groups";
const LISTED_STEPS_SELECT: &str = "
select step, since, kind, group_name, users, sum_us, median_2us, p90_10us
from listed
order by step, since";

const CARRIED: &str = "over (partition by user_id order by ts_us, step rows between unbounded preceding and current row)";

fn retention(metric: &Retention, scope: &mut Scope, writer: &mut Writer) -> Result<Texts> {
    scope.grain = Some(metric.grain.into());
    if metric.ever && metric.cohort == CohortOf::First {
        scope.before = Before::AllApart;
    }
    scope.compute("is_start", condition::flag(&metric.start, writer)?);
    scope.compute("is_return", condition::flag(&metric.return_, writer)?);
    let starts = match metric.cohort {
        CohortOf::First => {
            "select user_id, min(period_num) as cohort_num\nfrom scoped\nwhere user_id is not null and is_start = 1\ngroup by \
             user_id"
        }
        CohortOf::Recurring => {
            "select distinct user_id, period_num as cohort_num\nfrom scoped\nwhere user_id is not null and is_start = 1"
        }
    };
    let returns = match metric.returning {
        Returning::On => {
            "select distinct user_id, period_num as return_num\nfrom scoped\nwhere user_id is not null and is_return = 1 and \
             period_num >= 0"
        }
        Returning::OnOrAfter => {
            "select user_id, max(period_num) as return_num\nfrom scoped\nwhere user_id is not null and is_return = 1 and \
             period_num >= 0\ngroup by user_id"
        }
    };
    Ok(Texts::of(
        &[("starts", starts), ("returns", returns), ("kept", KEPT)],
        "select cohort_num, return_num, count(*) as users\nfrom kept\ngroup by cohort_num, return_num\norder by cohort_num, \
         return_num",
    ))
}

const KEPT: &str = "
select cohort_num, cohort_num as return_num
from starts
where cohort_num >= 0
union all
select starts.cohort_num as cohort_num, returns.return_num as return_num
from starts
join returns on returns.user_id = starts.user_id
where starts.cohort_num >= 0
  and returns.return_num > starts.cohort_num";

fn paths(metric: &Paths, scope: &mut Scope, writer: &mut Writer) -> Result<Texts> {
    if metric.by != By::User {
        return Err(not_portable("by \"session\""));
    }
    scope.columns.extend(["position", "feature"]);
    let start = metric.start.clone().unwrap_or_default();
    scope.compute("is_start", condition::flag(&start, writer)?);
    writer.number("depth", metric.depth as i64);
    writer.number("max_rows", metric.limit as i64);
    let mut texts = Texts::of(PATHS, "");
    let parts = ["departures", "ways", "ranked"];
    texts.expressions.extend(fixed::PATHS.expressions(&parts));
    let stops =
        |of: &dyn Fn(usize) -> String| -> Vec<String> { (1..=metric.depth).map(of).collect() };
    let pivot = stops(&|step| {
        format!("  max(case when step = {step} then feature else '' end) as stop_{step}")
    });
    let names = stops(&|step| format!("stop_{step}")).join(", ");
    let empty = stops(&|step| format!("'' as stop_{step}")).join(", ");
    texts.add(
        "routes",
        format!(
            "select\n  user_id,\n{}\nfrom stops\nwhere step <= :depth\ngroup by user_id",
            pivot.join(",\n")
        ),
    );
    texts.add(
        "complete",
        format!("select {names}, count(*) as users\nfrom routes\ngroup by {names}"),
    );
    texts.add(
        "ranked_paths",
        format!(
            "select {names}, users,\n  count(*) over (order by users desc, {names} rows between unbounded preceding and current \
             row) as place\nfrom complete"
        ),
    );
    texts.add(
        "rows_of_both",
        format!(
            "select 'step' as kind, step, place, from_feature, to_feature, users, {empty}\nfrom ranked\nwhere place <= \
             :max_rows\nunion all\nselect 'path' as kind, 0 as step, place, '' as from_feature, '' as to_feature, users, \
             {names}\nfrom ranked_paths\nwhere place <= :max_rows"
        ),
    );
    texts.select = format!(
        "select kind, step, place, from_feature, to_feature, users, {names}\nfrom rows_of_both\norder by kind, step, place"
    );
    Ok(texts)
}

const PATHS: &[(&str, &str)] = &[
    (
        "visits",
        "
select
  user_id,
  feature,
  count(*) over (
    partition by user_id order by ts_us, position rows between unbounded preceding and current row
  ) as place,
  sum(is_start) over (
    partition by user_id order by ts_us, position rows between unbounded preceding and current row
  ) as starts
from scoped
where user_id is not null",
    ),
    (
        "begun",
        "
select
  user_id,
  feature,
  count(*) over (partition by user_id order by place rows between unbounded preceding and current row) as use_num
from visits
where starts > 0
  and feature is not null",
    ),
    ("earlier", "select user_id, feature, use_num + 1 as next_num from begun"),
    (
        "changes",
        "
select user_id, feature, use_num
from begun
where use_num = 1
union all
select begun.user_id as user_id, begun.feature as feature, begun.use_num as use_num
from begun
join earlier on earlier.user_id = begun.user_id and earlier.next_num = begun.use_num
where earlier.feature <> begun.feature",
    ),
    (
        "stops",
        "
select
  user_id,
  feature,
  count(*) over (partition by user_id order by use_num rows between unbounded preceding and current row) as step
from changes",
    ),
];

fn experiment(metric: &Experiment, scope: &mut Scope, writer: &mut Writer) -> Result<Texts> {
    let variant = Property::Metadata(metric.variant.clone());
    scope.compute("variant", condition::value(&variant, writer)?);
    scope.compute("is_exposure", condition::flag(&metric.exposure, writer)?);
    scope.compute("is_goal", condition::flag(&metric.goal, writer)?);
    Ok(Texts::of(EXPERIMENT, EXPERIMENT_SELECT))
}

const EXPERIMENT: &[(&str, &str)] = &[
    (
        "exposed",
        "
select user_id, min(variant) as arm, count(distinct variant) as variants, min(ts_us) as exposed_us
from scoped
where user_id is not null
  and is_exposure = 1
  and variant is not null
group by user_id",
    ),
    (
        "goals",
        "
select user_id, max(ts_us) as goal_us
from scoped
where user_id is not null
  and is_goal = 1
  and is_exposure = 0
group by user_id",
    ),
    (
        "counted",
        "
select
  case when variants = 1 then 'value' else 'multiple' end as kind,
  case when variants = 1 then arm else '' end as arm_name,
  1 as is_exposed,
  0 as is_converted
from exposed
union all
select 'value' as kind, exposed.arm as arm_name, 0 as is_exposed, 1 as is_converted
from exposed
join goals on goals.user_id = exposed.user_id
where exposed.variants = 1
  and goals.goal_us >= exposed.exposed_us",
    ),
];
const EXPERIMENT_SELECT: &str = "
select kind, arm_name, sum(is_exposed) as exposed, sum(is_converted) as converted
from counted
group by kind, arm_name
order by kind, arm_name";

const HELD: &str = "
select
  ts_us,
  case when user_id is null then '' else user_id end as user_key,
  position,
  event_type,
  user_id,
  feature,
  metadata,
  url,
  event_id,
  received_us
from scoped";
const RANKED_EVENTS: &str = "
select
  *,
  count(*) over (
    order by ts_us desc, user_key, position desc rows between unbounded preceding and current row
  ) as place,
  count(*) over (partition by ts_us, user_key) as of_key
from {source}";
const NUMBERED_EVENTS: &str = "
select
  *,
  count(*) over (
    partition by ts_us, user_key order by position rows between unbounded preceding and current row
  ) as number_of_key
from held";
// Behind the cursor are the first events of its time and user, later users, and earlier times.
const PAGED_EVENTS: &str = "
select *
from numbered
where ts_us < :before_us
  or (ts_us = :before_us and user_key > {user})
  or (ts_us = :before_us and user_key = {user} and number_of_key <= :before_number)";
const EVENTS: &str = "
select ts_us, event_type, user_id, feature, metadata, url, event_id, received_us, of_key
from ranked
where place <= :max_rows
order by ts_us desc, user_key, position desc";

fn trends(
    metric: &Trends,
    window: &Window,
    now: DateTime<Utc>,
    scope: &mut Scope,
    writer: &mut Writer,
) -> Result<Texts> {
    let rolls = metric.rolling > 1;
    if rolls && metric.grain == TrendGrain::Hour {
        return Err(not_portable("rolling hours"));
    }
    scope.grain = Some(metric.grain);
    for (number, series) in metric.series.iter().enumerate() {
        if let Some(of) = &series.of {
            return Err(not_portable(&format!(
                "of {}: engines round sums of numbers differently",
                of.column_name()
            )));
        }
        let flag = condition::flag(&series.filter, writer)?;
        scope.compute(format!("is_{number}"), flag);
    }
    if let Some(property) = &metric.breakdown {
        compute_group(property, scope, writer)?;
    }
    let has_sessions = metric
        .series
        .iter()
        .any(|series| series.measure == Measured::Sessions);
    // The day before shows which sessions began before.
    let eve = u64::from(has_sessions);
    if has_sessions {
        scope.columns.push("position");
    }
    let timeline = Timeline::new(window, metric.grain, metric.compare, metric.rolling, now);
    let starts = || timeline.slots.iter().map(|slot| slot.us.start);
    scope.before = before(window, starts(), eve);
    let mut texts = Texts::of(&[], TRENDS_SELECT);
    texts.earlier = timeline.compared.as_ref().map(|compared| {
        let of = window.of_days(compared.from, compared.to);
        let slots = timeline
            .slots
            .iter()
            .filter_map(|slot| slot.previous.as_ref());
        let starts = slots.map(|slot| slot.us.start);
        let earlier = Scope {
            prefix: EARLIER.into(),
            before: before(&of, starts, eve),
            end_us: (compared.us.end < of.range_us().end).then_some(compared.us.end),
            ..scope.clone()
        };
        (earlier, of)
    });
    if rolls {
        writer.number("rolling", metric.rolling as i64);
        let periods = timeline.slots.len() as i64;
        writer.number("last_period", STEP * (periods - 1));
        let windows = texts.earlier.iter().map(|(_, of)| (EARLIER, of));
        for (prefix, of) in windows.chain([("", window)]) {
            let first = i64::from(of.first_day().to_epoch_days());
            writer.number(&format!("{prefix}from_num"), first);
        }
    }
    let mut prefixes = vec![""];
    prefixes.extend(texts.earlier.as_ref().map(|_| EARLIER));
    if has_sessions {
        let first = starts().min().unwrap_or(timeline.total_us.start);
        writer.number("inside_us", first.min(timeline.total_us.start));
        if let Some(compared) = &timeline.compared {
            let slots = timeline
                .slots
                .iter()
                .filter_map(|slot| slot.previous.as_ref());
            let first = slots.map(|slot| slot.us.start).min();
            let first = first.unwrap_or(compared.us.start).min(compared.us.start);
            writer.number(&format!("{EARLIER}inside_us"), first);
        }
        for prefix in &prefixes {
            add_sessions(metric, prefix, &mut texts);
        }
    }
    let mut parts = Vec::new();
    if metric.breakdown.is_some() {
        place_groups(metric, &prefixes, &mut texts, writer);
        // Every group is listed, also by a series without its events.
        parts.push(
            "select distinct -1 as series, 0 as is_earlier, -7 as period_num, group_place, kind, group_name, 0 as occurrences, 0 \
             as users\nfrom placed"
                .to_owned(),
        );
    }
    for prefix in prefixes {
        count_series(metric, prefix, &mut texts, &mut parts);
    }
    texts.add("counted", parts.join("\nunion all\n"));
    Ok(texts)
}

/// The start of the names of the window that another is compared with.
const EARLIER: &str = "earlier_";

/// The days before a window at which the first of some spans starts, and some more.
fn before(window: &Window, starts_us: impl Iterator<Item = i64>, more: u64) -> Before {
    let day_of = |us: i64| {
        let time = DateTime::from_timestamp_micros(us).unwrap_or_default();
        time.with_timezone(&window.tz()).date_naive()
    };
    let days = starts_us.map(|us| (window.first_day() - day_of(us)).num_days());
    let days = days.max().and_then(|days| u64::try_from(days).ok());
    match days.unwrap_or(0) + more {
        0 => Before::None,
        days => Before::Days(days),
    }
}

/// The events that series count: `scoped`, or with sessions among them `base`.
fn base_of(metric: &Trends) -> &'static str {
    let mut series = metric.series.iter();
    match series.any(|series| series.measure == Measured::Sessions) {
        true => "base",
        false => "scoped",
    }
}

/// Adds the first event of each session of each series of sessions, and `base`: these, and all
/// events for the other series.
fn add_sessions(metric: &Trends, prefix: &str, texts: &mut Texts) {
    let (group, listed_group, of_group) = match metric.breakdown {
        Some(_) => (
            ", is_missing, of_group",
            "  is_missing,\n  of_group,\n",
            ", placed.is_missing as is_missing, placed.of_group as of_group",
        ),
        None => ("", "", ""),
    };
    let is_of_sessions = |number: usize| {
        let series = metric.series.get(number);
        series.is_some_and(|series| series.measure == Measured::Sessions)
    };
    let numbers = 0..metric.series.len();
    let flags: String = numbers
        .clone()
        .map(|number| match is_of_sessions(number) {
            true => format!(", 0 as is_{number}"),
            false => format!(", is_{number}"),
        })
        .collect();
    let mut parts = vec![format!(
        "select user_id, day_num, period_num{group}{flags}\nfrom {prefix}scoped\nwhere ts_us >= :{prefix}inside_us"
    )];
    for of_sessions in numbers.clone().filter(|number| is_of_sessions(*number)) {
        let suffix = format!("_{prefix}{of_sessions}");
        let names = ["placed", "followed", "marks", "starts"];
        let placed = PLACED_EVENTS.replace("{group}", listed_group);
        let placed = format!("{placed}\n  and is_{of_sessions} = 1");
        let placed = placed.replace("from scoped", &format!("from {prefix}scoped"));
        texts.add(format!("placed{suffix}"), placed);
        for (name, body) in fixed::SESSIONS.expressions(&["followed", "marks", "starts"]) {
            texts.add(format!("{name}{suffix}"), renamed(&body, &names, &suffix));
        }
        let flags: String = numbers
            .clone()
            .map(|number| format!(", {} as is_{number}", i32::from(number == of_sessions)))
            .collect();
        let begun = format!(
            "select placed.user_id as user_id, placed.day_num as day_num, placed.period_num as period_num{of_group}{flags}\nfrom \
             placed\njoin starts on starts.user_id = placed.user_id and starts.place = placed.place\nwhere starts.is_start = 1\n  \
             and placed.ts_us >= :{prefix}inside_us"
        );
        parts.push(renamed(&begun, &names, &suffix));
    }
    texts.add(format!("{prefix}base"), parts.join("\nunion all\n"));
}

/// Adds the counts of each series in each period and in the whole window, and the expressions that
/// they need.
fn count_series(metric: &Trends, prefix: &str, texts: &mut Texts, parts: &mut Vec<String>) {
    let rolls = metric.rolling > 1;
    let (base, group, group_columns) = match metric.breakdown {
        None => (
            base_of(metric),
            "",
            ["0 as group_place", "'all' as kind", "'' as group_name"],
        ),
        Some(_) => ("sorted", ", group_place, kind, group_name", GROUP),
    };
    let base = format!("{prefix}{base}");
    let mut source = base.clone();
    let mut period = "period_num";
    if rolls {
        // Each event counts in its period and in those that follow it.
        source = format!("{prefix}rolled");
        period = "rolled_num";
        let kept = metric.breakdown.as_ref().map_or(&[][..], |_| &GROUP[..]);
        let flags = (0..metric.series.len()).map(|number| format!("is_{number}"));
        let kept: String = kept
            .iter()
            .map(|&name| name.to_owned())
            .chain(flags)
            .map(|name| format!(",\n  {base}.{name} as {name}"))
            .collect();
        texts.add(
            source.clone(),
            format!(
                "select\n  {base}.user_id as user_id,\n  {base}.period_num + 7 * numbers.number as rolled_num{kept}\nfrom \
                 {base}\ncross join numbers\nwhere numbers.number < :rolling"
            ),
        );
    }
    let is_earlier = i32::from(!prefix.is_empty());
    let columns = group_columns.join(", ");
    for number in 0..metric.series.len() {
        let counted = "count(*) as occurrences, count(distinct user_id) as users";
        let inside = if rolls {
            " and rolled_num between 0 and :last_period"
        } else {
            ""
        };
        parts.push(format!(
            "select {number} as series, {is_earlier} as is_earlier, {period} as period_num, {columns}, {counted}\nfrom {source}\n\
             where is_{number} = 1{inside}\ngroup by {period}{group}"
        ));
        let inside = match rolls {
            true => format!(" and day_num >= :{prefix}from_num"),
            false => String::new(),
        };
        let grouped = match group.strip_prefix(", ") {
            Some(group) => format!("\ngroup by {group}"),
            None => String::new(),
        };
        parts.push(format!(
            "select {number} as series, {is_earlier} as is_earlier, -7 as period_num, {columns}, {counted}\nfrom {base}\nwhere \
             is_{number} = 1{inside}{grouped}"
        ));
    }
}

/// The columns of a group.
const GROUP: [&str; 3] = ["group_place", "kind", "group_name"];

/// Adds the places of groups, by their totals of the window, and the events with these.
fn place_groups(metric: &Trends, prefixes: &[&str], texts: &mut Texts, writer: &mut Writer) {
    writer.number("max_groups", metric.limit as i64);
    let rolls = metric.rolling > 1;
    let base = base_of(metric);
    let numbers = 0..metric.series.len();
    let any: Vec<String> = numbers
        .clone()
        .map(|number| format!("is_{number} = 1"))
        .collect();
    let any = any.join(" or ");
    let flags: String = numbers.map(|number| format!(", is_{number}")).collect();
    // Events before the window or in the earlier one have groups, but give them no place.
    let is_apart = rolls || prefixes.len() > 1;
    let grouped = prefixes.iter().map(|prefix| {
        let in_window = match (*prefix, rolls) {
            ("", false) => "1",
            ("", true) => "case when day_num >= :from_num then 1 else 0 end",
            _ => "0",
        };
        format!(
            "select is_missing, of_group, user_id{flags}, {in_window} as in_window\nfrom {prefix}{base}\nwhere {any}"
        )
    });
    let (mut totals, mut orders) = (String::new(), String::new());
    for (number, series) in metric.series.iter().enumerate() {
        let (also, times) = match is_apart {
            true => (" and in_window = 1", " * in_window"),
            false => ("", ""),
        };
        let users =
            format!("count(distinct case when is_{number} = 1{also} then user_id else null end)");
        let events = format!("sum(is_{number}{times})");
        let total = match series.measure {
            Measured::Users => users,
            Measured::EventsPerUser => {
                let quotient = writer.dialect.quotient(&events, &users);
                // Without users there is no quotient, which comes last.
                format!("case when {users} = 0 then -1 else {quotient} end")
            }
            _ => events,
        };
        totals += &format!(", {total} as total_{number}");
        orders += &format!("total_{number} desc, ");
    }
    let (source, candidate) = match is_apart {
        true => ("grouped".to_owned(), "max(in_window)"),
        false => (format!("{base}\nwhere {any}"), "1"),
    };
    if is_apart {
        let grouped: Vec<String> = grouped.collect();
        texts.add("grouped", grouped.join("\nunion all\n"));
    }
    texts.add(
        "totals",
        format!(
            "select is_missing, of_group, {candidate} as is_candidate{totals}\nfrom {source}\ngroup by is_missing, of_group"
        ),
    );
    texts.add(
        "ranked",
        format!(
            "select is_missing, of_group, is_candidate,\n  sum((1 - is_missing) * is_candidate) over (order by is_missing, \
             is_candidate desc, {orders}of_group rows between unbounded preceding and current row) as place\nfrom totals"
        ),
    );
    texts.add("placed", placed_groups("ranked"));
    for prefix in prefixes {
        let scoped = format!("{prefix}{base}");
        let mut kept: Vec<String> = ["period_num", "user_id"].map(Into::into).into();
        if rolls {
            kept.push("day_num".into());
        }
        kept.extend((0..metric.series.len()).map(|number| format!("is_{number}")));
        let kept: String = kept
            .iter()
            .map(|name| format!("  {scoped}.{name} as {name},\n"))
            .collect();
        texts.add(
            format!("{prefix}sorted"),
            format!(
                "select\n{kept}  placed.group_place as group_place,\n  placed.kind as kind,\n  placed.group_name as \
                 group_name\nfrom {scoped}\njoin placed on placed.is_missing = {scoped}.is_missing and placed.of_group = \
                 {scoped}.of_group\nwhere {any}"
            ),
        );
    }
}

/// Groups with their places, kinds and names, from groups in their order.
fn placed_groups(ranked: &str) -> String {
    format!("{PLACED_GROUPS}\nfrom {ranked}")
}

const PLACED_GROUPS: &str = "
select
  is_missing,
  of_group,
  case
    when is_missing = 1 then :max_groups + 1
    when is_candidate = 1 and place <= :max_groups then place
    else :max_groups + 2
  end as group_place,
  case
    when is_missing = 1 then 'missing'
    when is_candidate = 1 and place <= :max_groups then 'value'
    else 'rest'
  end as kind,
  case when is_missing = 0 and is_candidate = 1 and place <= :max_groups then of_group else '' end as group_name";
const TRENDS_SELECT: &str = "
select series, is_earlier, period_num, group_place, kind, group_name, occurrences, users
from counted
order by series, is_earlier, group_place, period_num";
