//! What a scenario consists of, with the result of each step in print.

use aoe_server::clock::now;

/// The steps of one scenario.
pub(crate) struct Steps {
    scenario: String,
}

impl Steps {
    /// The steps of `scenario`.
    pub(crate) fn of(scenario: impl Into<String>) -> Self {
        Self { scenario: scenario.into() }
    }

    /// Takes one step, and prints what it tells of itself; one that panics is told by that.
    pub(crate) fn step(&self, title: &str, step: impl FnOnce() -> String) {
        let start = now();
        let failed = Failed { scenario: &self.scenario, title };
        let result = step();
        std::mem::forget(failed);
        let (scenario, took) = (&self.scenario, now().since(start).as_secs_f64());
        println!("ok     {scenario:<34} {title:<36} {took:6.1} s  {result}");
    }
}

/// Tells of a step that did not come to its end.
struct Failed<'a> {
    scenario: &'a str,
    title: &'a str,
}

impl Drop for Failed<'_> {
    fn drop(&mut self) {
        println!("FAILED {:<34} {}", self.scenario, self.title);
    }
}
