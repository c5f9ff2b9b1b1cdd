//! Cohorts: who is in them, in which window, and combinations of them.

use chrono::{DateTime, Utc};
use echopilot_analytics::engine::{Cancel, Engine};
use echopilot_analytics::metrics::cohort::Cohort;
use echopilot_analytics::metrics::query::Query;
use serde_json::{Value, json};

use crate::harness::{KEY, Server, engine, folder, ingest};

fn now() -> DateTime<Utc> {
    "2026-03-05T12:00:00Z".parse().unwrap()
}

/// Days of March, user, feature and plan.
const EVENTS: [(u32, &str, &str, &str); 13] = [
    (1, "ann", "cart", "free"),
    (1, "bob", "cart", "free"),
    (1, "cyd", "cart", "pro"),
    (2, "ann", "address", ""),
    (2, "ann", "pay", "pro"),
    (2, "bob", "address", "pro"),
    (3, "bob", "docs", "free"),
    (3, "dan", "docs", "free"),
    (4, "ann", "docs", ""),
    (4, "", "docs", "free"),
    (5, "cyd", "docs", ""),
    (5, "dan", "cart", ""),
    (5, "", "cart", ""),
];

fn store(engine: &Engine) {
    let events: Vec<Value> = EVENTS
        .iter()
        .zip(0..)
        .map(|((day, user, feature, plan), minute)| {
            let plan = (!plan.is_empty()).then_some(plan);
            json!({"ts":format!("2026-03-{day:02}T10:{minute:02}:00Z"),"event_type":"action",
                "user_id":user,"feature":feature,"metadata":{"plan":plan}})
        })
        .collect();
    assert_eq!(ingest(engine, &events, now()).logged, events.len());
}

fn set(engine: &Engine, cohort: &Value) -> Result<(), String> {
    let cohort = Cohort::parse(cohort.to_string().as_bytes()).map_err(|error| error.to_string())?;
    engine
        .set_cohort(cohort)
        .map(drop)
        .map_err(|error| error.to_string())
}

fn ask(engine: &Engine, query: &Value) -> Result<Value, String> {
    let query = Query::parse(query.to_string().as_bytes()).map_err(|error| error.to_string())?;
    let answer = engine.query(&query, now(), &Cancel::default());
    answer
        .map(|answer| json!(answer))
        .map_err(|error| error.to_string())
}

/// The users of a cohort condition: each has an event that no other user has.
fn members(engine: &Engine, cohort: &Value, days: i64) -> (Vec<String>, u64) {
    let query = |filter: Value| json!({"metric":"event_types","days":days,"filter":filter});
    let count = |filter: Value| {
        let answer = ask(engine, &query(filter)).unwrap();
        let rows = answer["rows"].as_array().unwrap().iter();
        rows.map(|row| row["events"].as_u64().unwrap()).sum::<u64>()
    };
    let users = ["ann", "bob", "cyd", "dan"].into_iter();
    let users = users.filter(|user| count(json!({"cohort":cohort,"user_id":user})) > 0);
    let users = users.map(str::to_owned).collect();
    (
        users,
        count(json!({"cohort":cohort,"user_id":{"exists":false}})),
    )
}

#[test]
fn cohorts_of_every_kind_have_their_users_before_and_after_a_seal() {
    let dir = folder();
    let opened = engine(dir.path(), now());
    store(&opened);
    let funnel =
        json!({"steps":[{"feature":"cart"},{"feature":"address"},{"feature":"pay"}],"within":"3d"});
    let week = json!({"grain":"day","start":{"feature":"cart"}});
    for cohort in [
        json!({"name":"docs","did":{"filter":{"feature":"docs"}}}),
        json!({"name":"twice","did":{"filter":{"any":[{"feature":"cart"},{"feature":"docs"}]},"at_least":2}}),
        json!({"name":"stopped","step":{"funnel":funnel,"reached":2,"not_reached":3}}),
        json!({"name":"address","step":{"funnel":funnel,"reached":2}}),
        json!({"name":"back","cell":{"retention":week,"cohort":"2026-03-01","period":1}}),
        json!({"name":"away","cell":{"retention":week,"cohort":"2026-03-01","period":1,"returned":false}}),
        json!({"name":"pro","last":{"property":"metadata.plan","is":"pro"}}),
        json!({"name":"not pro","last":{"property":"metadata.plan","is":{"not":"pro"}}}),
        json!({"name":"early","did":{"filter":{"feature":"cart"}},"window":{"from":"2026-03-01","to":"2026-03-01"}}),
        json!({"name":"list","users":["ann","dan"]}),
    ] {
        set(&opened, &cohort).unwrap();
    }
    let check = |engine: &Engine, state: &str| {
        for (cohort, users, anonymous) in [
            (json!("docs"), &["ann", "bob", "cyd", "dan"][..], 0),
            (json!("twice"), &["ann", "bob", "cyd", "dan"], 0),
            (json!("stopped"), &["bob"], 0),
            (json!("address"), &["ann", "bob"], 0),
            (json!("back"), &["ann", "bob"], 0),
            (json!("away"), &["cyd"], 0),
            (json!("pro"), &["ann", "cyd"], 0),
            (json!("not pro"), &["bob", "dan"], 0),
            (json!("early"), &["ann", "bob", "cyd"], 0),
            (json!("list"), &["ann", "dan"], 0),
            // Anonymous events are in the negation of every cohort.
            (json!({"not":"list"}), &["bob", "cyd"], 2),
            (json!(["early", {"not":"list"}]), &["bob", "cyd"], 0),
            (json!([{"not":"early"}, {"not":"pro"}]), &["dan"], 2),
            (json!(["early", "pro", "list"]), &["ann"], 0),
        ] {
            let (found, events) = members(engine, &cohort, 5);
            assert_eq!(
                (found.as_slice(), events),
                (
                    &users.iter().map(ToString::to_string).collect::<Vec<_>>()[..],
                    anonymous
                ),
                "{state}: {cohort}"
            );
        }
        // In the last two days; a cohort with a window of its own has the users of that.
        assert_eq!(members(engine, &json!("docs"), 2).0, ["ann", "cyd"]);
        assert_eq!(members(engine, &json!("early"), 2).0, ["ann", "cyd"]);
        // Every metric counts the same users.
        let query =
            json!({"metric":"active_users","days":5,"filter":{"cohort":["early",{"not":"list"}]}});
        let answer = ask(engine, &query).unwrap();
        let dau: Vec<u64> = answer["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["dau"].as_u64().unwrap())
            .collect();
        assert_eq!(dau, [2, 1, 1, 0, 1], "{state}");
        let window = json!([{"cohort":"early","from":"2026-03-01","to":"2026-03-01","covered_from":"2026-03-01"}]);
        assert_eq!(answer["cohort_windows"], window);
    };
    check(&opened, "tail");
    opened.seal(now()).unwrap();
    check(&opened, "sealed");
}

#[test]
fn a_wrong_cohort_or_combination_names_the_place() {
    let dir = folder();
    let opened = engine(dir.path(), now());
    store(&opened);
    let steps = json!([{"feature":"cart"},{"feature":"pay"}]);
    for (cohort, says) in [
        (json!({"name":"a"}), "has one of did"),
        (
            json!({"name":"a","users":[],"did":{"filter":{}}}),
            "has one of did",
        ),
        (
            json!({"name":"a","users":[],"window":{"days":3}}),
            "a list that no window changes",
        ),
        (
            json!({"name":"a","did":{"filter":{}},"window":{"days":366}}),
            "window: days is 366",
        ),
        (
            json!({"name":"a","did":{"filter":{}},"window":{"days":3,"period":"today"}}),
            "window: the window has days, period",
        ),
        (
            json!({"name":"a","did":{"filter":{"user_id":"ann"}}}),
            "did.filter names user_id",
        ),
        (
            json!({"name":"a","did":{"filter":{"url":{"matches":"("}}}}),
            "did.filter: url: the expression",
        ),
        (
            json!({"name":"a","step":{"funnel":{"steps":steps},"reached":3}}),
            "step.reached is 3; allowed is 1 to 2",
        ),
        (
            json!({"name":"a","step":{"funnel":{"steps":steps},"reached":2,"not_reached":2}}),
            "step.not_reached is 2",
        ),
        (
            json!({"name":"a","step":{"funnel":{"steps":[]},"reached":1}}),
            "step.funnel: steps",
        ),
        (
            json!({"name":"a","step":{"funnel":{"steps":steps,"breakdown":"url"},"reached":1}}),
            "breakdown",
        ),
        (
            json!({"name":"a","cell":{"retention":{"grain":"hours"},"cohort":"2026-03-01","period":1}}),
            "cell.retention: grain",
        ),
        (
            json!({"name":"a","last":{"property":"plan","is":"pro"}}),
            "last.property: \"plan\"",
        ),
        (
            json!({"name":"a","last":{"property":"url","is":null}}),
            "last.is: null",
        ),
    ] {
        let message = set(&opened, &cohort).unwrap_err();
        assert!(message.contains(says), "{cohort}: {message}");
    }
    let cell = json!({"name":"cell","cell":{"retention":{"grain":"week"},"cohort":"2026-03-01","period":1}});
    set(&opened, &cell).unwrap();
    for (cohort, says) in [
        (json!("missing"), "there is no cohort \"missing\""),
        (json!({"not":"missing"}), "there is no cohort \"missing\""),
        (json!([]), "a list of 1 to 10"),
        (json!(vec!["cell"; 11]), "a list of 1 to 10"),
        (
            json!({"not":["cell"]}),
            "filter.cohort is {\"not\":[\"cell\"]}",
        ),
        (json!(3), "filter.cohort is 3"),
        (json!("cell"), "cell.cohort is 2026-03-01"),
    ] {
        let query = json!({"metric":"event_types","days":5,"filter":{"cohort":cohort}});
        let message = ask(&opened, &query).unwrap_err();
        assert!(message.contains(says), "{cohort}: {message}");
    }
    let nested = json!({"metric":"event_types","filter":{"any":[{"cohort":"cell"}]}});
    let message = ask(&opened, &nested).unwrap_err();
    assert!(
        message.contains("any[0].cohort is allowed at the top"),
        "{message}"
    );
}

#[test]
fn events_of_the_own_window_of_a_cohort_change_the_entity_tag() {
    let dir = folder();
    let server = Server::start(dir.path());
    for cohort in [
        json!({"name":"plain","did":{"filter":{}}}),
        json!({"name":"own","did":{"filter":{}},"window":{"days":1}}),
    ] {
        assert_eq!(server.ask("/api/analytics/cohorts", &cohort).0, 200);
    }
    let yesterday = Utc::now() - chrono::TimeDelta::days(1);
    let event =
        |ts: DateTime<Utc>| json!({"event_type":"action","user_id":"ann","ts":ts.to_rfc3339()});
    assert_eq!(server.post(&json!({"events":[event(yesterday)]})).0, 200);
    let tag = |cohort: Value| {
        let end = yesterday.date_naive();
        let query = json!({"metric":"event_types","days":1,"end":end,"filter":{"cohort":cohort}});
        let query = serde_urlencoded::to_string([("q", query.to_string())]).unwrap();
        let url = format!("{}/api/analytics/query?{query}", server.url);
        let response = ureq::get(&url).header("x-dash-key", KEY).call().unwrap();
        assert_eq!(response.status().as_u16(), 200);
        response.headers()["etag"].to_str().unwrap().to_owned()
    };
    let [plain, own] = [json!({"not":"plain"}), json!(["plain", "own"])];
    let before = [tag(plain.clone()), tag(own.clone())];
    // Of today, and so after the window of the queries.
    assert_eq!(server.post(&json!({"events":[event(Utc::now())]})).0, 200);
    assert_eq!(tag(plain), before[0]);
    assert_ne!(tag(own), before[1]);
}
