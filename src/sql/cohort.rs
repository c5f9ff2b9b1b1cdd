//! The users of a cohort as SQL: by their events, by the last value of a property, or a list.

use super::scope::{ReadDays, Scope};
use super::{QueryContext, Writer, condition, not_portable};
use crate::error::{Error, ErrorCode, Result};
use crate::metrics::cohort::{BehaviouralCohort, Cohort, LastValueCohort};
use crate::metrics::filter::{Condition, Filter, Predicate};
use crate::metrics::query::Query;
use crate::window::Window;

/// Most ids of a list: each is a parameter.
const MAX_USERS: usize = 1_000;

/// Limits the events of some scopes to the cohorts of a query. Returns the common table expressions
/// of their users, and adds the days that these read.
///
/// # Errors
/// `not_portable` for other cohorts, and `unknown_cohort`.
pub fn limit(
    query: &Query,
    window: &Window,
    context: QueryContext<'_>,
    scopes: &mut [&mut Scope],
    days: &mut Vec<ReadDays>,
    writer: &mut Writer,
) -> Result<Vec<(String, String)>> {
    let mut expressions = Vec::new();
    for (at, condition) in (1..).zip(&query.cohorts) {
        let cohort = context.cohorts.find(&condition.name)?;
        let met = match &cohort.users {
            Some(users) => of_list(cohort, users, context, writer)?,
            None => {
                let name = format!("cohort_{at}");
                let own = cohort.window.as_ref();
                let own = own.map(|own| own.request(window.tz().name()).resolve(context.now));
                let window = own.transpose()?.unwrap_or(*window);
                let mut scope = Scope::new(&window, &[]);
                scope.prefix = format!("{name}_");
                if let Some(did) = &cohort.did {
                    expressions.extend(of_events(did, &name, &mut scope, &window, writer)?);
                } else if let Some(last) = &cohort.last {
                    expressions.extend(of_last(last, &name, &mut scope, &window, writer)?);
                } else {
                    return Err(unavailable(cohort, "by a funnel or a retention"));
                }
                days.push(scope.days);
                format!("user_id in (select user_id from {name})")
            }
        };
        let met = match condition.is_in {
            true => format!("(user_id is not null and {met})"),
            // An anonymous event is of none of its users.
            false => format!("(user_id is null or not ({met}))"),
        };
        for scope in scopes.iter_mut() {
            scope.conditions.push(met.clone());
        }
    }
    Ok(expressions)
}

fn unavailable(cohort: &Cohort, what: &str) -> Error {
    not_portable(&format!("filter.cohort {:?}: users {what}", cohort.name))
}

fn bad(message: String) -> Error {
    Error::bad_input(ErrorCode::BadCohort, message)
}

fn of_list(
    cohort: &Cohort,
    users: &[String],
    context: QueryContext<'_>,
    writer: &mut Writer,
) -> Result<String> {
    if context.has_user_key {
        return Err(unavailable(cohort, "by id, which are stored as pseudonyms"));
    }
    if users.len() > MAX_USERS {
        return Err(unavailable(
            cohort,
            &format!("by id, of which there are more than {MAX_USERS}"),
        ));
    }
    let users: Vec<String> = users.iter().map(|user| writer.string(user)).collect();
    Ok(match users.as_slice() {
        [] => "1 = 0".into(),
        users => format!("user_id in ({})", users.join(", ")),
    })
}

fn of_events(
    did: &BehaviouralCohort,
    name: &str,
    scope: &mut Scope,
    window: &Window,
    writer: &mut Writer,
) -> Result<[(String, String); 2]> {
    let filter = did.filter().map_err(bad)?;
    let met = scope.where_clause(&filter, window, writer)?;
    let least = i64::try_from(did.at_least).unwrap_or(i64::MAX);
    let least = writer.number(&format!("{name}_events"), least);
    Ok([
        (
            format!("{name}_counted"),
            format!(
                "select user_id, count(*) as occurrences\nfrom events\nwhere {met}\n  and user_id is not null\ngroup by user_id"
            ),
        ),
        (
            name.to_owned(),
            format!("select user_id from {name}_counted where occurrences >= {least}"),
        ),
    ])
}

fn of_last(
    last: &LastValueCohort,
    name: &str,
    scope: &mut Scope,
    window: &Window,
    writer: &mut Writer,
) -> Result<[(String, String); 2]> {
    let condition = last.condition().map_err(bad)?;
    let has_value = condition.property().map(|property| Condition::Of {
        property: property.clone(),
        predicate: Predicate::Exists(true),
    });
    let has_value = Filter {
        conditions: has_value.into_iter().collect(),
    };
    let is_met = Filter {
        conditions: vec![condition],
    };
    let known = scope.where_clause(&has_value, window, writer)?;
    let is_met = condition::flag(&is_met, writer)?;
    Ok([
        (
            format!("{name}_ranked"),
            format!(
                "select\n  user_id,\n  {is_met} as is_met,\n  count(*) over (\n    partition by user_id order by ts_us desc, \
                 position desc rows between unbounded preceding and current row\n  ) as place\nfrom events\nwhere {known}\n  and \
                 user_id is not null"
            ),
        ),
        (
            name.to_owned(),
            format!("select user_id from {name}_ranked where place = 1 and is_met = 1"),
        ),
    ])
}
