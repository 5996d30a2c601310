//! The conformance checklist: 93 claims about an `AoE` target, each tried on the engine.
//!
//! `cargo test --test conformance -- --nocapture` prints one line per item. What an engine without
//! a wire cannot show is tried as far as it goes, and the line says where the rest is tested.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "conformance/ata.rs"]
mod ata;
#[path = "common/engine.rs"]
mod common;
#[path = "conformance/config.rs"]
mod config;
#[path = "conformance/receive.rs"]
mod receive;
#[path = "conformance/registers.rs"]
mod registers;
#[path = "conformance/sharing.rs"]
mod sharing;

use std::panic::catch_unwind;

/// One item of the checklist.
pub(crate) struct Item {
    /// Its number there.
    number: u8,
    /// What it claims.
    title: &'static str,
    /// What is tested elsewhere, and where.
    elsewhere: Option<&'static str>,
    /// Panics unless the claim holds.
    check: fn(),
}

/// An item that the engine decides alone.
pub(crate) const fn item(number: u8, title: &'static str, check: fn()) -> Item {
    Item { number, title, elsewhere: None, check }
}

/// An item of which `elsewhere` is tested over a wire.
pub(crate) const fn part(
    number: u8,
    title: &'static str,
    elsewhere: &'static str,
    check: fn(),
) -> Item {
    Item { number, title, elsewhere: Some(elsewhere), check }
}

fn items() -> Vec<&'static Item> {
    [receive::ITEMS, config::ITEMS, ata::ITEMS, registers::ITEMS, sharing::ITEMS]
        .into_iter()
        .flatten()
        .collect()
}

#[test]
fn every_number_of_the_checklist_appears_once_and_in_order() {
    let numbers: Vec<u8> = items().iter().map(|item| item.number).collect();
    assert_eq!(numbers, (1..=93).collect::<Vec<u8>>());
}

#[test]
fn the_engine_conforms_to_the_checklist() {
    let mut failed = Vec::new();
    for item in items() {
        let held = catch_unwind(item.check).is_ok();
        let result = if held { "ok" } else { "FAILED" };
        match item.elsewhere {
            None => println!("#{:02} {} ... {result}", item.number, item.title),
            Some(rest) => {
                println!("#{:02} {} ... {result} here; wire: {rest}", item.number, item.title);
            }
        }
        if !held {
            failed.push(item.number);
        }
    }
    assert!(failed.is_empty(), "items that do not hold: {failed:?}");
}
