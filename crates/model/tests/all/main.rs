//! The model crate from outside: folders in, plans through the executor, outputs against answers made elsewhere.

mod driver;
mod folder;
mod generation;
mod golden;
mod hostile;
mod invariance;
mod memory;
mod naive;
mod oracle;
mod spec;
