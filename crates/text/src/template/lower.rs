//! A template as instructions that can be run with a bound on memory.
//!
//! The library compiles a template for its virtual machine; here every instruction whose cost depends on its operands is
//! exchanged for a call of a priced filter of [`ops`](super::ops), with the same effect on the stack. What is not known to be
//! safe is refused, so a new instruction of a new version of the library fails loudly and not silently.

use minijinja::machinery::{CodeGenerator, Instruction, Instructions, parse};
use minijinja::value::Value;

use super::error::TemplateError;
use super::screen::syntax;
use super::{filters, tests};

/// No cached lookup: the filter is found by its name each time.
const UNCACHED: u8 = !0;

/// Compiles a screened source. This takes 5–200 µs for the known templates, so the program, which borrows its source, is made
/// anew for each rendering and not kept.
pub(super) fn lower<'s>(source: &'s str) -> Result<Instructions<'s>, TemplateError> {
    let name = "chat template";
    let tree = parse(source, name, syntax()?).map_err(|error| TemplateError::syntax(&error))?;
    let mut generator = CodeGenerator::new(name, source);
    generator.compile_stmt(&tree);
    let (program, blocks) = generator.finish();
    if !blocks.is_empty() {
        return Err(refuse("`block` is not supported", None));
    }
    let mut lowered: Vec<(Vec<Instruction<'s>>, u32)> = Vec::new();
    let mut position = 0;
    let mut index = 0;
    while let Some(instruction) = program.get(index) {
        let line = program.get_line(index);
        let replacement = exchange(instruction).map_err(|detail| refuse(&detail, line))?;
        let length = u32::try_from(replacement.len()).unwrap_or(u32::MAX);
        lowered.push((replacement, position));
        position += length;
        index += 1;
    }
    let target = |old: u32| {
        let new = usize::try_from(old).ok().and_then(|old| lowered.get(old));
        new.map_or(position, |(_, position)| *position)
    };
    let mut out = Instructions::new(name, source);
    for (index, (replacement, _)) in (0..).zip(&lowered) {
        let line =
            program.get_line(index).and_then(|line| u16::try_from(line).ok()).unwrap_or(u16::MAX);
        for instruction in replacement {
            out.add_with_line(retarget(instruction.clone(), target), line);
        }
    }
    Ok(out)
}

fn refuse(detail: &str, line: Option<usize>) -> TemplateError {
    TemplateError::Syntax { detail: detail.to_owned(), line }
}

fn filter<'s>(name: &'s str, arguments: u16) -> Instruction<'s> {
    Instruction::ApplyFilter(name, Some(arguments), UNCACHED)
}

fn display<'s>(name: &'s str, parts: usize) -> Result<Vec<Instruction<'s>>, String> {
    let parts = u16::try_from(parts).map_err(|_| "a list, tuple or dict is too long".to_owned())?;
    Ok(vec![filter(name, parts)])
}

/// What to run instead of `instruction`, or why it cannot be run.
fn exchange<'s>(instruction: &Instruction<'s>) -> Result<Vec<Instruction<'s>>, String> {
    use Instruction as I;
    let own = || instruction.clone();
    Ok(match instruction {
        // Emitted through the formatter, which charges.
        I::EmitRaw(text) => vec![I::LoadConst(Value::from(*text)), I::Emit],
        I::Add => vec![filter("+", 2)],
        I::Mul => vec![filter("*", 2)],
        I::StringConcat => vec![filter("~", 2)],
        I::Eq => vec![filter("==", 2)],
        I::Ne => vec![filter("!=", 2)],
        I::Lt => vec![filter("<", 2)],
        I::Lte => vec![filter("<=", 2)],
        I::Gt => vec![filter(">", 2)],
        I::Gte => vec![filter(">=", 2)],
        I::In => vec![filter("in", 2)],
        I::GetItem => vec![filter("[]", 2)],
        I::Slice => vec![filter("[:]", 4)],
        I::BuildList(Some(count)) => display("[...]", *count)?,
        I::BuildTuple(Some(count)) => display("(...)", *count)?,
        I::BuildMap(count) => display("{...}", count.saturating_mul(2))?,
        I::CompareAndPreserve(_) => {
            vec![filter("cost", 1), I::Swap, filter("cost", 1), I::Swap, own()]
        }
        I::SetAttr(_) => vec![I::Swap, filter(".x=", 1), I::Swap, own()],
        I::PushLoop(_) => vec![filter("for", 1), own()],
        // With one argument the function may be a recursive loop, which walks its argument.
        I::CallFunction(_, Some(1)) | I::FastRecurse => vec![filter("text", 1), own()],
        I::CallMethod(name, Some(count)) => {
            vec![I::LoadConst(Value::from(*name)), filter(".()", count.saturating_add(1))]
        }
        I::ApplyFilter(name, Some(_), _) if filters::NAMES.contains(name) => vec![own()],
        I::ApplyFilter(name, ..) => return Err(format!("there is no filter `{name}`")),
        I::PerformTest(name, Some(_), _) if tests::NAMES.contains(name) => vec![own()],
        I::PerformTest(name, ..) => return Err(format!("there is no test `{name}`")),
        I::CallFunction(_, Some(_)) | I::CallObject(Some(_)) => vec![own()],
        I::StoreLocal(_) | I::Lookup(_) | I::GetAttr(_) | I::LoadConst(_) => vec![own()],
        // Built by `for … if`: one element per turn of a loop.
        I::BuildList(None) => vec![own()],
        I::BuildKwargs(_) | I::UnpackList(_) => vec![own()],
        I::Sub | I::Div | I::IntDiv | I::Rem | I::Pow | I::Neg | I::Not => vec![own()],
        I::Emit | I::BeginCapture(_) | I::EndCapture => vec![own()],
        I::PushWith | I::Iterate(_) | I::PushDidNotIterate | I::PopFrame | I::PopLoopFrame => {
            vec![own()]
        }
        I::Jump(_) | I::JumpIfFalse(_) | I::JumpIfFalseOrPop(_) | I::JumpIfTrueOrPop(_) => {
            vec![own()]
        }
        I::DupTop | I::DiscardTop | I::Swap => vec![own()],
        I::BuildMacro(..) | I::Return | I::IsUndefined | I::Enclose(_) | I::GetClosure => {
            vec![own()]
        }
        I::PushAutoEscape | I::PopAutoEscape => {
            return Err("`autoescape` is not supported".to_owned());
        }
        I::MergeKwargs(_) | I::UnpackLists(_) => {
            return Err("unpacking arguments with `*` is not supported".to_owned());
        }
        I::Include(_) | I::LoadBlocks | I::CallBlock(_) | I::ExportLocals | I::FastSuper => {
            return Err("a chat template is one file: `include`, `import`, `extends` and `block` are not supported".to_owned());
        }
        _ => return Err("it uses a construct that is not supported".to_owned()),
    })
}

fn retarget<'s>(instruction: Instruction<'s>, target: impl Fn(u32) -> u32) -> Instruction<'s> {
    use Instruction as I;
    match instruction {
        I::Iterate(old) => I::Iterate(target(old)),
        I::Jump(old) => I::Jump(target(old)),
        I::JumpIfFalse(old) => I::JumpIfFalse(target(old)),
        I::JumpIfFalseOrPop(old) => I::JumpIfFalseOrPop(target(old)),
        I::JumpIfTrueOrPop(old) => I::JumpIfTrueOrPop(target(old)),
        I::BuildMacro(name, old, flags) => I::BuildMacro(name, target(old), flags),
        other => other,
    }
}
