use proptest::prelude::*;

use super::*;

const NO: Rules = Rules { restart: RestartPolicy::No, auto_remove: false };

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn exit(code: i32, second: i64) -> Exit {
    Exit { code, at: at(second), oom_killed: false }
}

/// Applies events that must all be allowed; returns the last state and its effects.
fn run(rules: Rules, events: impl IntoIterator<Item = Event>) -> (State, Vec<Effect>) {
    events.into_iter().fold((State::default(), Vec::new()), |(state, _), event| {
        state.step(event.clone(), rules).unwrap_or_else(|r| panic!("{event:?} refused: {r:?}"))
    })
}

fn started(generation: u64) -> [Event; 1] {
    [Event::Started { generation, pid: 42, at: at(0) }]
}

#[test]
fn a_plain_life() {
    let (state, effects) = run(NO, [Event::Start]);
    assert_eq!((state.phase, effects), (Phase::Starting, vec![Effect::StartTask(1)]));
    let (state, _) = run(NO, [Event::Start].into_iter().chain(started(1)));
    assert_eq!((state.phase, state.pid), (Phase::Running, 42));
    let (state, effects) =
        state.step(Event::Exited { generation: 1, exit: exit(3, 1) }, NO).unwrap();
    assert_eq!((state.phase, state.pid, state.exit.unwrap().code), (Phase::Exited, 0, 3));
    assert!(effects.contains(&Effect::CleanUp(1)));
    let (state, effects) = state.step(Event::Cleaned { generation: 1 }, NO).unwrap();
    assert_eq!((state.phase, effects), (Phase::Exited, vec![]));
    let (state, effects) = state.step(Event::Remove(Force::No), NO).unwrap();
    assert_eq!((state.phase, effects), (Phase::Removing, vec![Effect::RemoveAll]));
    assert_eq!(state.step(Event::Removed, NO).unwrap().0.phase, Phase::Gone);
}

#[test]
fn a_late_exit_of_an_earlier_run_is_ignored() {
    // moby#43403: the exit of run 1 must not end run 2.
    let (state, _) = run(
        NO,
        [
            Event::Start,
            Event::Started { generation: 1, pid: 1, at: at(0) },
            Event::Exited { generation: 1, exit: exit(0, 1) },
            Event::Cleaned { generation: 1 },
            Event::Start,
            Event::Started { generation: 2, pid: 2, at: at(2) },
        ],
    );
    let (after, effects) =
        state.step(Event::Exited { generation: 1, exit: exit(9, 3) }, NO).unwrap();
    assert_eq!((after, effects), (state, vec![]));
}

#[test]
fn an_exit_may_overtake_the_answer_of_start() {
    let (state, _) = run(NO, [Event::Start, Event::Exited { generation: 1, exit: exit(0, 1) }]);
    assert_eq!(state.phase, Phase::Exited);
    let (after, effects) =
        state.step(Event::Started { generation: 1, pid: 1, at: at(0) }, NO).unwrap();
    assert_eq!((after.phase, effects), (Phase::Exited, vec![]));
}

#[test]
fn what_never_ran_stays_created_however_often_its_start_failed() {
    let failed = |generation| Event::StartFailed {
        generation,
        code: 127,
        error: "no such program".to_owned(),
        at: at(1),
    };
    let (state, _) = run(NO, [Event::Start, failed(1), Event::Start, failed(2)]);
    assert_eq!((state.phase, state.exit.unwrap().code), (Phase::Created, 127));
}

#[test]
fn start_during_cleanup_waits_for_it() {
    let (state, effects) = run(
        NO,
        [
            Event::Start,
            Event::Started { generation: 1, pid: 1, at: at(0) },
            Event::Exited { generation: 1, exit: exit(0, 1) },
            Event::Start,
        ],
    );
    assert_eq!((state.phase, effects), (Phase::Exited, vec![]));
    let (state, effects) = state.step(Event::Cleaned { generation: 1 }, NO).unwrap();
    assert_eq!((state.phase, effects), (Phase::Starting, vec![Effect::StartTask(2)]));
}

#[test]
fn back_off_doubles_and_resets_after_a_stable_run() {
    let rules = Rules { restart: RestartPolicy::Always, auto_remove: false };
    let mut state = State::default().step(Event::Start, rules).unwrap().0;
    let mut delays = Vec::new();
    let mut now = 0;
    for lasted in [0, 0, 0, 11, 0] {
        let generation = state.generation;
        for event in [
            Event::Started { generation, pid: 1, at: at(now) },
            Event::Exited { generation, exit: exit(1, now + lasted) },
        ] {
            state = state.step(event, rules).unwrap().0;
        }
        let (next, effects) = state.step(Event::Cleaned { generation }, rules).unwrap();
        assert_eq!(next.phase, Phase::Restarting);
        let [Effect::Delay(_, delay)] = effects[..] else { panic!("{effects:?}") };
        delays.push(delay.as_millis());
        state = next.step(Event::BackoffElapsed { generation }, rules).unwrap().0;
        now += lasted;
    }
    assert_eq!(delays, [100, 200, 400, 100, 200]);
    assert_eq!(state.restart_count, 5);
}

#[test]
fn on_failure_counts_and_ignores_success() {
    let rules = Rules { restart: RestartPolicy::OnFailure { max_retries: 1 }, auto_remove: false };
    let ends = |code: i32, generation| {
        [
            Event::Started { generation, pid: 1, at: at(0) },
            Event::Exited { generation, exit: exit(code, 1) },
            Event::Cleaned { generation },
        ]
    };
    let (state, _) = run(rules, [Event::Start].into_iter().chain(ends(0, 1)));
    assert_eq!(state.phase, Phase::Exited);
    let events = [Event::Start]
        .into_iter()
        .chain(ends(5, 1))
        .chain([Event::BackoffElapsed { generation: 1 }])
        .chain(ends(5, 2));
    let (state, _) = run(rules, events);
    assert_eq!((state.phase, state.restart_count), (Phase::Exited, 1));
}

#[test]
fn a_user_stop_beats_the_policy_also_at_boot() {
    let rules = Rules { restart: RestartPolicy::UnlessStopped, auto_remove: false };
    let (state, _) = run(
        rules,
        [
            Event::Start,
            Event::Started { generation: 1, pid: 1, at: at(0) },
            Event::StopRequested,
            Event::Exited { generation: 1, exit: exit(143, 1) },
            Event::Cleaned { generation: 1 },
        ],
    );
    assert_eq!(state.phase, Phase::Exited);
    let boot = Event::Boot { exit: None, at: at(9) };
    assert_eq!(state.step(boot.clone(), rules).unwrap().0.phase, Phase::Exited);
    let always = Rules { restart: RestartPolicy::Always, ..rules };
    assert_eq!(state.step(boot.clone(), always).unwrap().0.phase, Phase::Starting);
    // What is stored may be from before the clean-up: then it is done again first.
    let (dirty, effects) = State { dirty: true, ..state }.step(boot, always).unwrap();
    assert_eq!(effects, [Effect::CleanUp(1)]);
    let (_, effects) = dirty.step(Event::Cleaned { generation: 1 }, always).unwrap();
    assert_eq!(effects, [Effect::StartTask(2)]);
}

#[test]
fn force_remove_while_starting_kills_after_the_start() {
    let (state, effects) = run(NO, [Event::Start, Event::Remove(Force::Yes)]);
    assert!(effects.is_empty());
    let (state, effects) =
        state.step(Event::Started { generation: 1, pid: 1, at: at(0) }, NO).unwrap();
    assert!(effects.contains(&Effect::KillTask(1)));
    let (state, _) = state.step(Event::Exited { generation: 1, exit: exit(137, 1) }, NO).unwrap();
    let (_, effects) = state.step(Event::Cleaned { generation: 1 }, NO).unwrap();
    assert_eq!(effects, [Effect::RemoveAll]);
}

#[test]
fn auto_remove_happens_once_and_also_after_a_crash() {
    let rules = Rules { restart: RestartPolicy::No, auto_remove: true };
    let (running, _) = run(rules, [Event::Start].into_iter().chain(started(1)));
    let (state, effects) =
        running.step(Event::Boot { exit: Some(exit(7, 5)), at: at(9) }, rules).unwrap();
    assert_eq!(state.exit.unwrap().code, 7);
    assert!(effects.contains(&Effect::CleanUp(1)));
    let (state, effects) = state.step(Event::Cleaned { generation: 1 }, rules).unwrap();
    assert_eq!((state.phase, effects), (Phase::Removing, vec![Effect::RemoveAll]));
    let (state, effects) = state.step(Event::Remove(Force::No), rules).unwrap();
    assert_eq!((state.phase, effects), (Phase::Removing, vec![]));
}

fn any_event() -> impl Strategy<Value = Event> {
    let generation = 0u64..4;
    prop_oneof![
        Just(Event::Start),
        Just(Event::StopRequested),
        Just(Event::Paused),
        Just(Event::Resumed),
        Just(Event::Removed),
        Just(Event::Remove(Force::Yes)),
        Just(Event::Remove(Force::No)),
        Just(Event::RemoveFailed { error: "x".into() }),
        Just(Event::Boot { exit: None, at: at(5) }),
        generation.clone().prop_map(|generation| Event::Started { generation, pid: 7, at: at(1) }),
        generation.clone().prop_map(|generation| Event::Cleaned { generation }),
        generation.clone().prop_map(|generation| Event::BackoffElapsed { generation }),
        (generation.clone(), 0..2i32)
            .prop_map(|(generation, code)| Event::Exited { generation, exit: exit(code, 2) }),
        generation.clone().prop_map(|generation| Event::StartFailed {
            generation,
            code: 127,
            error: "x".into(),
            at: at(1)
        }),
        generation.prop_map(|generation| Event::Adopted {
            generation,
            pid: 7,
            paused: Frozen::No,
            started_at: None
        }),
    ]
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let policy = prop_oneof![
        Just(RestartPolicy::No),
        Just(RestartPolicy::Always),
        Just(RestartPolicy::UnlessStopped),
        (0u32..3).prop_map(|max_retries| RestartPolicy::OnFailure { max_retries }),
    ];
    (policy, any::<bool>()).prop_map(|(restart, auto_remove)| Rules { restart, auto_remove })
}

proptest! {
    #[test]
    fn no_sequence_reaches_an_illegal_state(
        rules in any_rules(),
        events in proptest::collection::vec(any_event(), 0..60),
    ) {
        let mut state = State::default();
        for event in events {
            let Ok((next, effects)) = state.step(event.clone(), rules) else { continue };
            prop_assert!(next.generation >= state.generation);
            if state.phase == Phase::Gone {
                prop_assert_eq!(next.phase, Phase::Gone, "{:?}", event);
            }
            let runs = matches!(next.phase, Phase::Running | Phase::Paused);
            prop_assert!(!runs || next.dirty, "a run has something to clean: {event:?}");
            prop_assert!(runs || next.pid == 0, "no pid without a process: {event:?}");
            let starts = effects.iter().filter(|e| matches!(e, Effect::StartTask(_))).count();
            prop_assert!(starts <= 1);
            // A new run begins only when nothing of the last one is left.
            prop_assert!(starts == 0 || !state.dirty || matches!(event, Event::Cleaned { .. }
                | Event::StartFailed { .. }), "{event:?}");
            prop_assert!(
                !effects.contains(&Effect::RemoveAll) || next.phase == Phase::Removing
            );
            state = next;
        }
    }
}
