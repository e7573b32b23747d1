//! A fence around what came from an image, a registry, a plugin or a guest.

/// A value from outside that nobody has checked. Only [`Untrusted::validate`] opens it, so each
/// use names the check that it relies on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Untrusted<T>(T);

impl<T> Untrusted<T> {
    /// Marks `value` as unchecked.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// Hands the value to `check`, whose result is trusted.
    ///
    /// # Errors
    /// Whatever `check` refuses with.
    pub fn validate<U, E>(self, check: impl FnOnce(T) -> Result<U, E>) -> Result<U, E> {
        check(self.0)
    }
}
