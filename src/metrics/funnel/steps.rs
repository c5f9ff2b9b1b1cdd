//! Steps and exclusions of a funnel as bits.

/// Most steps of a funnel.
pub const MAX_STEPS: usize = 20;
/// Most exclusions of a funnel.
pub const MAX_EXCLUSIONS: usize = 10;

/// A set of steps, or of exclusions.
pub type Marks = u32;
