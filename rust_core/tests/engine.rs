//! The engine on the scripted model: the same text in any company, no turn lost, no slot leaked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use matrix_core::batch::Batch;
use matrix_core::engine::{Answer, Engine, Options};
use matrix_core::error::Error;
use matrix_core::hash::Hash;
use matrix_core::model::{Limits, Model};
use matrix_core::scripted::{ByteVocab, Scripted};
use matrix_core::turn::{Completion, Finish, Outcome, Sampling, Segment, Turn};
use matrix_core::vocab::Tokenizer;
use proptest::prelude::*;

const CONTEXT: usize = 200;

fn open(slots: usize, batch: usize, prefix_reuse: bool) -> Engine {
    open_on(Scripted::new(slots, CONTEXT, batch), prefix_reuse)
}

fn open_on(model: Scripted, prefix_reuse: bool) -> Engine {
    let parallel = model.limits().slots;
    open_with(model, Options { parallel, prefix_reuse, context: CONTEXT, preempt_every: None })
}

fn open_with(model: Scripted, options: Options) -> Engine {
    let tokenizer = Arc::new(Tokenizer::new(Box::new(ByteVocab::default())).unwrap());
    Engine::open(Box::new(model), tokenizer, options).unwrap()
}

fn sampling(max_tokens: u32) -> Sampling {
    Sampling {
        max_tokens,
        temperature: 0.7,
        top_k: 0,
        top_p: 0.9,
        min_p: 0.0,
        repetition_penalty: 1.1,
        stop: vec!["!".into()],
        form: None,
        choices: vec![],
    }
}

fn turn(scene: &str, path: &str, prompt: &str, sampling: Sampling) -> Turn {
    let segments = vec![Segment { text: "<s><|role|>".into(), trusted: true }, Segment { text: prompt.into(), trusted: false }];
    Turn::new(7, Hash::of(scene.as_bytes()), path.into(), 1, "test".into(), segments, sampling).unwrap()
}

fn collect(engine: &Engine, count: usize) -> Vec<Answer> {
    let mut answers = Vec::new();
    while answers.len() < count {
        let more = engine.collect(Duration::from_secs(20)).unwrap();
        assert!(!more.is_empty(), "{} of {count} answers, then silence: {:?}", answers.len(), engine.stats());
        answers.extend(more);
    }
    answers
}

fn texts(answers: Vec<Answer>) -> BTreeMap<String, (String, Finish, Outcome)> {
    let text = |completion: Completion| (completion.text, completion.finish, completion.outcome);
    answers.into_iter().map(|answer| (answer.turn.path.clone(), text(answer.result.unwrap()))).collect()
}

fn run(engine: &Engine, turns: Vec<Turn>) -> Vec<Answer> {
    let count = turns.len();
    engine.submit(turns).unwrap();
    collect(engine, count)
}

fn work() -> impl Strategy<Value = Vec<(usize, usize, u32)>> {
    // Shared beginnings of different length, own endings, budgets.
    prop::collection::vec((0usize..120, 0usize..40, 1u32..40), 1..30)
}

fn turns(work: &[(usize, usize, u32)]) -> Vec<Turn> {
    let shared = "The same beginning again and again. ".repeat(4);
    let prompt = |i: usize, head: usize, tail: usize| format!("{}{}", &shared[..head], format!("{i} ").repeat(tail.div_ceil(2)));
    work.iter().enumerate().map(|(i, &(head, tail, max))| turn("s", &format!("t{i}"), &prompt(i, head, tail), sampling(max))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn texts_do_not_depend_on_slots_batch_or_reuse(
        work in work(), parallel in 1usize..9, spare in 0usize..5, batch in 4usize..200, prefix_reuse: bool,
        every in prop::option::of(1u64..20)
    ) {
        let expected = texts(run(&open(1, 512, false), turns(&work)));
        let model = Scripted::new(parallel + spare, CONTEXT, batch);
        let engine = open_with(model, Options { parallel, prefix_reuse, context: CONTEXT, preempt_every: every });
        prop_assert_eq!(texts(run(&engine, turns(&work))), expected);
        let stats = engine.stats();
        prop_assert_eq!((stats.running, stats.waiting, stats.failed_turns), (0, 0, 0));
    }

    #[test]
    fn texts_do_not_depend_on_a_shared_kv_its_size_or_preemption(
        work in work(), parallel in 1usize..9, spare in 0usize..5, batch in 10usize..200, cells in CONTEXT..600, prefix_reuse: bool,
        every in prop::option::of(1u64..20)
    ) {
        let expected = texts(run(&open(1, 512, false), turns(&work)));
        let model = Scripted::new(parallel + spare, CONTEXT, batch).sharing(cells);
        let engine = open_with(model, Options { parallel, prefix_reuse, context: CONTEXT, preempt_every: every });
        prop_assert_eq!(texts(run(&engine, turns(&work))), expected.clone());
        // On the same engine: what was left behind is right, and no cell is lost.
        prop_assert_eq!(texts(run(&engine, turns(&work))), expected);
        let stats = engine.stats();
        prop_assert_eq!((stats.running, stats.waiting, stats.failed_turns), (0, 0, 0));
    }

    #[test]
    fn a_failed_call_fails_its_turns_only(work in work(), slots in 1usize..9, bad in 0usize..40) {
        let expected = texts(run(&open(1, 512, false), turns(&work)));
        let engine = open_on(Scripted::new(slots, CONTEXT, 64).failing(move |call| call == bad || call == bad + 7), true);
        // Two calls fail at most, so that one of three rounds on the same engine is whole: every slot works again.
        let mut whole = 0;
        for _ in 0..3 {
            let answers = run(&engine, turns(&work));
            whole += usize::from(answers.iter().all(|answer| answer.result.is_ok()));
            for answer in answers {
                match answer.result {
                    Ok(completion) => prop_assert_eq!(&completion.text, &expected[&answer.turn.path].0),
                    Err(error) => prop_assert!(matches!(error, Error::Decode { .. }), "{error}"),
                }
            }
        }
        prop_assert!(whole > 0);
    }
}

#[test]
fn shared_beginnings_are_prefilled_once_where_a_slot_has_them() {
    let engine = open(4, 512, true);
    let prompt = |i: usize| format!("{} {i}", "A long beginning. ".repeat(8));
    run(&engine, vec![turn("s", "first", &prompt(0), sampling(2))]);
    let before = engine.stats();
    run(&engine, (1..9).map(|i| turn("s", &format!("t{i}"), &prompt(i), sampling(2))).collect());
    let after = engine.stats();
    assert!(after.prefilled_tokens - before.prefilled_tokens <= 8 * 6, "{after:?}");
    assert!(after.cached_tokens > 8 * 130, "{after:?}");
}

#[test]
fn turns_that_come_together_prefill_what_they_share_once() {
    let engine = open(8, 512, true);
    let prompt = |i: usize| format!("{} {i}", "A long beginning. ".repeat(8));
    let before = engine.stats();
    run(&engine, (0..8).map(|i| turn("s", &format!("t{i}"), &prompt(i), sampling(2))).collect());
    let after = engine.stats();
    let distinct = (prompt(0).len() + 2 + 7 * 3) as u64;
    assert!(after.prefilled_tokens - before.prefilled_tokens <= distinct, "{after:?}, {distinct}");
}

#[test]
fn turns_that_share_nothing_do_not_wait_for_those_that_do() {
    // The first is prefilled in many steps; those that begin like it wait, the one behind them goes.
    let engine = open(2, 8, true);
    let long = |i: usize| format!("{} {i}", "A long beginning. ".repeat(9));
    let mut turns: Vec<Turn> = (0..3).map(|i| turn("s", &format!("long{i}"), &long(i), sampling(1))).collect();
    turns.push(turn("s", "short", "Who?", sampling(1)));
    let order: Vec<String> = run(&engine, turns).into_iter().map(|answer| answer.turn.path.clone()).collect();
    assert_eq!(order[1], "short", "{order:?}");
}

#[test]
fn spare_slots_keep_beginnings_while_all_turns_that_may_run_do() {
    let prefilled = |spare: usize| {
        let engine = open_with(
            Scripted::new(2 + spare, CONTEXT, 512),
            Options { parallel: 2, prefix_reuse: true, context: CONTEXT, preempt_every: None },
        );
        let beginning = |i: usize| format!("Beginning {}: {}", ["one", "two", "three", "four"][i], "and so it goes on. ".repeat(6));
        for round in 0..3 {
            run(&engine, (0..4).map(|i| turn("s", &format!("{round}/{i}"), &format!("{}{round}", beginning(i)), sampling(2))).collect());
        }
        engine.stats().prefilled_tokens
    };
    assert!(2 * prefilled(4) < prefilled(0), "{} {}", prefilled(4), prefilled(0));
}

#[test]
fn what_a_finished_turn_left_behind_survives_that_another_moves_into_its_place() {
    let engine = open(4, 512, true);
    let beginning = |i: usize| format!("Beginning {}: {}", ["one", "two", "three"][i], "and so it goes on. ".repeat(6));
    // The first is done long before the others, of which the last takes its slot.
    let long = Sampling { stop: vec![], ..sampling(60) };
    let budget = |i: usize| if i == 0 { sampling(1) } else { long.clone() };
    run(&engine, (0..3).map(|i| turn("s", &format!("t{i}"), &beginning(i), budget(i))).collect());
    let before = engine.stats();
    run(&engine, (0..3).rev().map(|i| turn("s", &format!("again{i}"), &format!("{}?", beginning(i)), sampling(1))).collect());
    let after = engine.stats();
    assert!(after.prefilled_tokens - before.prefilled_tokens <= 3 * 6, "{before:?} {after:?}");
}

#[test]
fn a_prompt_that_leaves_no_room_is_an_outcome_and_a_budget_is_cut_to_the_context() {
    let engine = open(2, 64, true);
    // BOS and role mark make 2 tokens more.
    let full = texts(run(&engine, vec![turn("s", "full", &"x".repeat(CONTEXT - 2), sampling(5))]));
    assert_eq!(full["full"].2, Outcome::TooLong);
    let free = Sampling { stop: vec![], temperature: 0.0, ..sampling(5) };
    let last = run(&engine, vec![turn("s", "last", &"x".repeat(CONTEXT - 3), free)]);
    let completion = last[0].result.as_ref().unwrap();
    assert!(completion.facts.generated_tokens <= 1 && completion.outcome == Outcome::Text);
}

#[test]
fn forms_bind_and_a_cut_form_is_failed() {
    let engine = open(3, 64, true);
    let form = |max, form: &str| Sampling { form: Some(form.into()), stop: vec![], ..sampling(max) };
    let yes_no = "start: \"yes\" | \"no\"";
    let list = "start: name (\", \" name){2}\nname: /[a-z]{3,8}/";
    let answers = texts(run(
        &engine,
        vec![
            turn("s", "verdict", "Is it so?", form(8, yes_no)),
            turn("s", "list", "Name three.", form(60, list)),
            turn("s", "cut", "Name three.", form(4, list)),
        ],
    ));
    assert!(["yes", "no"].contains(&answers["verdict"].0.as_str()), "{answers:?}");
    assert_eq!(answers["verdict"].1, Finish::Form);
    assert_eq!((answers["list"].0.split(", ").count(), answers["list"].2), (3, Outcome::Text), "{answers:?}");
    assert_eq!((answers["cut"].1, answers["cut"].2), (Finish::Length, Outcome::FormFailed));
}

const VERDICT: &str = "start: REASON \"\\nVerdict: \" VERDICT\nREASON: /[mnyz]{20}/\nVERDICT: \"yes\" | \"no\"";

/// Settings of a verdict, whose reason is full of the letters that the verdict begins with.
fn verdict(temperature: f32, repetition_penalty: f32) -> Sampling {
    let choices = vec!["yes".into(), "no".into()];
    Sampling { temperature, repetition_penalty, stop: vec![], form: Some(VERDICT.into()), choices, ..sampling(60) }
}

fn completions(answers: Vec<Answer>) -> Vec<(Arc<Turn>, Completion)> {
    answers.into_iter().map(|answer| (answer.turn, answer.result.unwrap())).collect()
}

/// How much likelier than "n" the model finds "y" after the turn's prompt and a text.
fn odds_after(turn: &Turn, text: &str) -> f32 {
    let mut tokens = Tokenizer::new(Box::new(ByteVocab::default())).unwrap().encode(&turn.segments).unwrap();
    tokens.extend(text.bytes().map(i32::from));
    let mut batch = Batch::default();
    batch.push_row(0, &tokens, 0, true);
    let mut model = Scripted::new(1, CONTEXT, CONTEXT);
    model.decode(&batch).unwrap();
    let logits = model.logits().unwrap()[0];
    logits[usize::from(b'y')] - logits[usize::from(b'n')]
}

#[test]
fn log_odds_are_those_of_the_bare_logits_where_the_form_decides() {
    let settings = [(0.0, 1.0), (0.0, 3.0), (2.0, 1.0), (2.0, 3.0)];
    let turns = (0..24).map(|i| turn("s", &format!("t{i}"), &format!("Is {i} odd?"), verdict(settings[i % 4].0, settings[i % 4].1)));
    let (mut against, mut verdicts) = (0, [0, 0]);
    for (turn, completion) in completions(run(&open(5, 64, true), turns.collect())) {
        let (before, verdict) = completion.text.rsplit_once(' ').unwrap();
        let odds = completion.facts.log_odds.unwrap();
        assert_eq!(Some(odds), Some(odds_after(&turn, &format!("{before} "))), "{completion:?}");
        let likelier = if odds > 0.0 { "yes" } else { "no" };
        if turn.sampling == self::verdict(0.0, 1.0) {
            assert_eq!(verdict, likelier, "{completion:?}");
        }
        against += usize::from(verdict != likelier);
        verdicts[usize::from(odds > 0.0)] += 1;
    }
    // Neither penalty nor temperature enters the odds: they made some verdicts the less likely one.
    assert!(against > 0 && verdicts[0] > 0 && verdicts[1] > 0, "{against} against, {verdicts:?}");
}

#[test]
fn choices_change_nothing_of_what_is_said() {
    let turns = |choices: &[&str]| {
        let choices: Vec<String> = choices.iter().map(ToString::to_string).collect();
        let settings = Sampling { choices, ..verdict(1.0, 1.1) };
        (0..6).map(|i| turn("s", &format!("t{i}"), "Is it so?", settings.clone())).collect::<Vec<_>>()
    };
    let answers = |choices: &[&str]| {
        let answers = completions(run(&open(3, 64, true), turns(choices)));
        answers.into_iter().map(|(turn, completion)| (turn.path.clone(), completion)).collect::<BTreeMap<_, _>>()
    };
    let (none, forth, back, other) = (answers(&[]), answers(&["yes", "no"]), answers(&["no", "yes"]), answers(&["yes", "maybe"]));
    for (path, plain) in &none {
        for same in [&forth[path], &back[path], &other[path]] {
            assert_eq!((&same.text, same.request, same.finish), (&plain.text, plain.request, plain.finish));
        }
        assert_eq!((plain.facts.log_odds, other[path].facts.log_odds), (None, None));
        let (forth, back) = (forth[path].facts.log_odds, back[path].facts.log_odds);
        assert!(forth.is_some());
        assert_eq!(forth, back.map(|odds| -odds));
    }
}

#[test]
fn log_odds_are_taken_once_and_only_where_a_form_decides() {
    let form = |form: Option<&str>| Sampling { form: form.map(str::to_owned), ..verdict(0.7, 1.0) };
    let twice = "start: V \" but \" V\nV: \"yes\" | \"no\"";
    let turns = vec![
        turn("s", "twice", "Is it so?", form(Some(twice))),
        turn("s", "no form", "Is it so?", form(None)),
        turn("s", "free text", "Is it so?", form(Some("start: /[a-z ]{5,9}/"))),
        turn("s", "one text", "Is it so?", form(Some("start: \"yes\""))),
    ];
    let answers = completions(run(&open(4, 64, true), turns));
    for (turn, completion) in answers {
        let expected = (turn.path == "twice").then(|| odds_after(&turn, ""));
        assert_eq!(completion.facts.log_odds, expected, "{completion:?}");
    }
}

#[test]
fn prompts_of_tokens_go_on_to_the_end_of_their_budget() {
    let engine = open(3, 64, true);
    let free = Sampling { stop: vec![], ..sampling(50) };
    let work = |prompt: &str| (turn("s", prompt, "", free.clone()), [256].into_iter().chain(prompt.bytes().map(i32::from)).collect());
    engine.submit_tokens((0..12).map(|i| work(&format!("number {i}"))).collect()).unwrap();
    for answer in collect(&engine, 12) {
        let completion = answer.result.unwrap();
        assert_eq!((completion.facts.generated_tokens, completion.finish), (50, Finish::Length));
    }
    for prompt in [vec![256], vec![256, 259], vec![256, -1], vec![1; CONTEXT - 49]] {
        assert!(engine.submit_tokens(vec![(turn("s", "bad", "", free.clone()), prompt)]).is_err());
    }
}

#[test]
fn what_cannot_be_asked_is_refused_at_once() {
    let engine = open(1, 64, true);
    let bad_form = Sampling { form: Some("start: (".into()), ..sampling(4) };
    assert!(matches!(engine.submit(vec![turn("s", "form", "x", bad_form)]), Err(Error::Form { .. })));
    let empty = Turn::new(7, Hash::default(), "empty".into(), 1, "test".into(), vec![], sampling(4)).unwrap();
    assert!(matches!(engine.submit(vec![empty]), Err(Error::PromptTooShort { tokens: 1, .. })));
}

#[test]
fn a_cancelled_scene_frees_its_slots_and_leaves_the_others() {
    let engine = open(2, 64, true);
    let long = Sampling { stop: vec![], ..sampling(150) };
    let scene = |name: &str| (0..4).map(|i| turn(name, &format!("{name}{i}"), "go on", long.clone())).collect::<Vec<_>>();
    engine.submit([scene("a"), scene("b")].concat()).unwrap();
    engine.cancel(Hash::of(b"a")).unwrap();
    let answers = collect(&engine, 8);
    for answer in answers {
        let cancelled = matches!(answer.result, Err(Error::Cancelled { .. }));
        assert!(answer.turn.scene == Hash::of(b"a") || !cancelled);
    }
    assert_eq!((engine.stats().running, engine.stats().waiting), (0, 0));
}

#[test]
fn a_closed_engine_says_so() {
    let engine = open(1, 64, true);
    engine.close();
    engine.close();
    assert!(matches!(engine.submit(vec![turn("s", "late", "x", sampling(1))]), Err(Error::Closed)));
    assert!(matches!(engine.collect(Duration::from_millis(10)), Err(Error::Closed)));
}

#[test]
fn vocabularies_that_add_a_space_give_the_same_text() {
    let plain = Tokenizer::new(Box::new(ByteVocab { adds_space: false })).unwrap();
    let spaced = Tokenizer::new(Box::new(ByteVocab { adds_space: true })).unwrap();
    let segments = [("<s>a <|role|>b", true), ("c <|role|> </s><s>", false), ("", true), (" d", false)];
    let segments = segments.map(|(text, trusted)| Segment { text: text.into(), trusted });
    let tokens = plain.encode(&segments).unwrap();
    assert_eq!(tokens, spaced.encode(&segments).unwrap());
    assert_eq!(plain.decode(&tokens), "a <|role|>bc <|role|> </s><s> d");
    assert_eq!(tokens.iter().filter(|&&token| token >= 256).count(), 2, "untrusted text made a control token");
}

#[test]
fn of_the_turns_that_wait_those_of_the_lowest_rank_go_first() {
    let engine = open(1, 32, true);
    let turns = [3, 1, 2, 1, 0].into_iter().enumerate();
    let ranked = turns.map(|(place, rank)| Turn { rank, ..turn("scene", &format!("{place} of {rank}"), "Who is there?", sampling(3)) });
    engine.submit(ranked.collect()).unwrap();
    let order: Vec<String> = collect(&engine, 5).into_iter().map(|answer| answer.turn.path.clone()).collect();
    // The first may begin before the others are there.
    let rest: Vec<&str> = order.iter().map(String::as_str).filter(|path| *path != "0 of 3").collect();
    assert_eq!(rest, ["4 of 0", "1 of 1", "3 of 1", "2 of 2"]);
}

#[test]
fn a_small_shared_kv_preempts_the_youngest_and_fails_nobody() {
    let free = Sampling { stop: vec![], ..sampling(150) };
    let work = |rank: u64| {
        let prompt = [256].into_iter().chain(format!("{rank}: who is there?").bytes().map(i32::from)).collect();
        (Turn { rank, ..turn("s", &format!("t{rank}"), "", free.clone()) }, prompt)
    };
    let answers = |engine: &Engine| {
        engine.submit_tokens((0..6).map(work).collect()).unwrap();
        completions(collect(engine, 6))
    };
    let options = Options { parallel: 6, prefix_reuse: true, context: CONTEXT, preempt_every: None };
    let engine = open_with(Scripted::new(6, CONTEXT, 64).sharing(CONTEXT + 100), options);
    let shared = answers(&engine);
    let stats = engine.stats();
    assert!(stats.preemptions > 0 && stats.failed_turns == 0, "{stats:?}");
    let alone: BTreeMap<String, String> =
        answers(&open(1, 512, false)).into_iter().map(|(turn, completion)| (turn.path.clone(), completion.text)).collect();
    for (turn, completion) in &shared {
        assert_eq!(completion.text, alone[&turn.path]);
        assert_eq!(completion.facts.generated_tokens, 150);
    }
    // The oldest never had to wait.
    assert_eq!(shared[0].0.rank, 0);
}

#[test]
fn a_shared_kv_keeps_common_beginnings_once() {
    // Eight prompts of 150 tokens fit into 600 cells, for they have 140 in common.
    let options = Options { parallel: 8, prefix_reuse: true, context: CONTEXT, preempt_every: None };
    let engine = open_with(Scripted::new(8, CONTEXT, 512).sharing(600), options);
    let prompt = |i: usize| format!("{} {i}", "A long beginning. ".repeat(8));
    run(&engine, (0..8).map(|i| turn("s", &format!("t{i}"), &prompt(i), sampling(8))).collect());
    let stats = engine.stats();
    assert!(stats.prefilled_tokens <= (prompt(0).len() + 2 + 7 * 3) as u64, "{stats:?}");
    assert_eq!(stats.preemptions, 0);
}

#[test]
fn a_shared_kv_that_no_turn_fits_is_refused() {
    let open = |cells, batch, parallel| {
        let tokenizer = Arc::new(Tokenizer::new(Box::new(ByteVocab::default())).unwrap());
        let options = Options { parallel, prefix_reuse: true, context: CONTEXT, preempt_every: None };
        Engine::open(Box::new(Scripted::new(8, CONTEXT, batch).sharing(cells)), tokenizer, options).map(|_| ())
    };
    assert!(matches!(open(CONTEXT - 1, 64, 4), Err(Error::Option { name: "KV tokens", .. })));
    assert!(matches!(open(CONTEXT, 8, 8), Err(Error::Option { name: "batch", .. })));
    assert_eq!(open(CONTEXT, 9, 8), Ok(()));
}

/// Forgets a token at some truncation, as a model with an error would.
struct Forgetful(Scripted, usize);

impl Model for Forgetful {
    fn limits(&self) -> Limits {
        self.0.limits()
    }
    fn decode(&mut self, batch: &Batch) -> matrix_core::error::Result<()> {
        self.0.decode(batch)
    }
    fn logits(&mut self) -> matrix_core::error::Result<Vec<&[f32]>> {
        self.0.logits()
    }
    fn copy(&mut self, from: usize, to: usize) {
        self.0.copy(from, to);
    }
    fn truncate(&mut self, slot: usize, length: usize) -> bool {
        let forgotten = usize::from(self.1 == 0);
        self.1 = self.1.wrapping_sub(1);
        self.0.truncate(slot, length.saturating_sub(forgotten))
    }
    fn length(&self, slot: usize) -> usize {
        self.0.length(slot)
    }
    fn set_threads(&mut self, threads: usize) {
        self.0.set_threads(threads);
    }
}

#[test]
fn a_kv_that_is_not_what_it_should_be_is_found_when_the_engine_is_idle() {
    let tokenizer = Arc::new(Tokenizer::new(Box::new(ByteVocab::default())).unwrap());
    let options = Options { parallel: 2, prefix_reuse: true, context: CONTEXT, preempt_every: None };
    // The first truncation is at admission, where there is nothing yet; the second leaves the first turn's prompt behind.
    let engine = Engine::open(Box::new(Forgetful(Scripted::new(2, CONTEXT, 64), 1)), tokenizer, options).unwrap();
    run(&engine, vec![turn("s", "first", "Who is there?", sampling(3))]);
    let answers = run(&engine, vec![turn("s", "second", "Who is there?", sampling(3))]);
    let error = answers[0].result.as_ref().unwrap_err();
    assert!(matches!(error, Error::Integrity { .. }), "{error}");
    assert!(error.to_string().contains("slot 0 holds"), "{error}");
}
