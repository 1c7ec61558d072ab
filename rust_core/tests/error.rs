//! Each error of the core stands for a class of `matrix_py.errors`. `tests/test_core.py` holds the table against that module.

use std::collections::BTreeSet;

use matrix_core::error::Error;

/// The place of each variant in [`one_of_each`]. Without a wildcard: a new variant does not compile until it is here.
fn place(error: &Error) -> usize {
    match error {
        Error::Payload { .. } => 0,
        Error::SceneNotOpen { .. } => 1,
        Error::SceneOpenTwice { .. } => 2,
        Error::Setting { .. } => 3,
        Error::PromptTooShort { .. } => 4,
        Error::Form { .. } => 5,
        Error::Vocabulary { .. } => 6,
        Error::Option { .. } => 7,
        Error::Layout { .. } => 8,
        Error::Decode { .. } => 9,
        Error::Sampling { .. } => 10,
        Error::Cancelled { .. } => 11,
        Error::Closed => 12,
        Error::NotTheAnswer { .. } => 13,
        Error::Missing { .. } => 14,
        Error::Integrity { .. } => 15,
        Error::Arrow { .. } => 16,
    }
}

fn one_of_each() -> [Error; 17] {
    let word = || "word".to_owned();
    [
        Error::Payload { offset: 7, reason: "word" },
        Error::SceneNotOpen { scene: word() },
        Error::SceneOpenTwice { scene: word() },
        Error::Setting { name: "word", value: word(), expected: "at least 1" },
        Error::PromptTooShort { path: word(), tokens: 7 },
        Error::Form { reason: word() },
        Error::Vocabulary { reason: word() },
        Error::Option { name: "word", value: word(), expected: word() },
        Error::Layout { what: "word", expected: 7, actual: 8 },
        Error::Decode { tokens: 7, reason: word() },
        Error::Sampling { path: word(), reason: word() },
        Error::Cancelled { path: word() },
        Error::Closed,
        Error::NotTheAnswer { path: word(), other: word() },
        Error::Missing { what: "word" },
        Error::Integrity { found: word() },
        Error::Arrow { reason: word() },
    ]
}

#[test]
fn the_table_of_python_classes_is_exactly_what_errors_name() {
    let errors = one_of_each();
    assert!(errors.iter().map(place).eq(0..errors.len()), "a variant is missing or out of place");
    let named: BTreeSet<&str> = errors.iter().map(Error::python_class).collect();
    assert_eq!(named, BTreeSet::from(Error::PYTHON_CLASSES));
    assert_eq!(named.len(), Error::PYTHON_CLASSES.len(), "a class stands in the table twice");
}

#[test]
fn messages_are_one_line_that_names_thing_and_value() {
    for error in one_of_each() {
        let message = error.to_string();
        assert!(!message.contains('\n'), "{message}");
        assert!(message.contains("word") || message.contains('7') || error == Error::Closed, "{message}");
    }
}
