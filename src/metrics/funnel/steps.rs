//! Steps and exclusions of a funnel as bits.

/// Most steps of a funnel.
pub const MAX_STEPS: usize = 20;
/// Most exclusions of a funnel.
pub const MAX_EXCLUSIONS: usize = 10;

/// Bitmask of steps and exclusions: bit `s` for step `s + 1`, bit [`MAX_STEPS`] + `x` for exclusion
/// `x`.
pub type StepMask = u32;
