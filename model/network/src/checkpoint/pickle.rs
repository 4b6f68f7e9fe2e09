//! A reader for the small part of pickle that a saved state dict of tensors needs. Nothing is ever run: the few
//! globals that torch writes are recognised by name, and any other is refused when it is named, before it is called.
//!
//! Values are small copies; tuples, dicts, storages and tensors live in tables and are held by index, so that neither
//! deep nesting nor shared parts can cost more than a fixed number of bytes for each byte of the pickle.

use std::collections::{HashMap, HashSet};

use super::{CheckpointError, StoredType};

/// Longest storage key in bytes; torch numbers them from 0.
const MAX_KEY: usize = 64;
/// More dimensions than any tensor of this model has.
const MAX_DIMENSIONS: usize = 8;

/// A storage as the pickle names it; its bytes are the archive entry `data/KEY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Storage {
    pub(crate) key: String,
    pub(crate) stored: StoredType,
    pub(crate) num_elements: i64,
}

/// A tensor as the pickle describes it: unchecked numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PickledTensor {
    pub(crate) name: String,
    pub(crate) storage: Storage,
    pub(crate) offset: i64,
    pub(crate) shape: Vec<i64>,
    pub(crate) strides: Vec<i64>,
}

/// Tensors of the state dict `bytes`, in its order; messages call the file `file`.
pub(crate) fn parse(file: &str, bytes: &[u8]) -> Result<Vec<PickledTensor>, CheckpointError> {
    let mut machine = Machine::new(file, bytes);
    let top = machine.run()?;
    machine.state_dict(top)
}

/// The globals that are known, and all that is ever done with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    StorageClass(StoredType),
}

impl Global {
    fn find(module: &str, name: &str) -> Option<Self> {
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Some(Self::RebuildParameter),
            ("torch", class) => StoredType::from_storage_class(class).map(Self::StorageClass),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Value {
    Mark,
    None,
    Bool,
    Int(i64),
    Float,
    /// Byte range of the pickle, checked to be UTF-8.
    Text(usize, usize),
    /// Range of `Machine::items`.
    Tuple(usize, usize),
    /// Index into `Machine::dicts`.
    Dict(usize),
    Global(Global),
    /// Index into `Machine::storages`.
    Storage(usize),
    /// Index into `Machine::tensors`.
    Tensor(usize),
}

struct Tensor {
    storage: usize,
    offset: i64,
    shape: Vec<i64>,
    strides: Vec<i64>,
}

struct Machine<'a> {
    file: &'a str,
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    memo: HashMap<u32, Value>,
    items: Vec<Value>,
    dicts: Vec<Vec<(Value, Value)>>,
    storages: Vec<Storage>,
    tensors: Vec<Tensor>,
}

type Outcome<T> = Result<T, CheckpointError>;

impl<'a> Machine<'a> {
    fn new(file: &'a str, bytes: &'a [u8]) -> Self {
        Self {
            file,
            bytes,
            at: 0,
            stack: Vec::new(),
            memo: HashMap::new(),
            items: Vec::new(),
            dicts: Vec::new(),
            storages: Vec::new(),
            tensors: Vec::new(),
        }
    }

    fn corrupt<T>(&self, reason: &str) -> Outcome<T> {
        let reason = format!("{reason} at byte {} of its pickle", self.at);
        Err(CheckpointError::CorruptHeader {
            file: self.file.to_owned(),
            reason,
        })
    }

    fn unsupported<T>(&self, what: String) -> Outcome<T> {
        Err(CheckpointError::UnsupportedPickle {
            file: self.file.to_owned(),
            what,
        })
    }

    /// Runs until STOP and gives the value left on top.
    fn run(&mut self) -> Outcome<Value> {
        loop {
            let opcode = self.take(1)?[0];
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode)?;
        }
    }

    fn step(&mut self, opcode: u8) -> Outcome<()> {
        match opcode {
            // PROTO and FRAME say nothing that matters here.
            0x80 => self.take(1).map(drop),
            0x95 => self.take(8).map(drop),
            b'(' => self.push(Value::Mark),
            b'N' => self.push(Value::None),
            0x88 | 0x89 => self.push(Value::Bool),
            b'K' => self.push_int(1),
            b'M' => self.push_int(2),
            b'J' => self.push_int(4),
            0x8a => self.push_long(),
            b'G' => {
                self.take(8)?;
                self.push(Value::Float)
            }
            b'X' => self.push_text(4),
            0x8c => self.push_text(1),
            b')' => self.push_tuple(self.stack.len()),
            0x85 => self.push_last(1),
            0x86 => self.push_last(2),
            0x87 => self.push_last(3),
            b't' => {
                let mark = self.find_mark()?;
                self.push_tuple(mark + 1)?;
                self.stack.swap_remove(mark);
                Ok(())
            }
            b'}' => self.push_dict(),
            b's' => self.set_items(self.stack.len().saturating_sub(2)),
            b'u' => {
                let mark = self.find_mark()?;
                self.stack.remove(mark);
                self.set_items(mark)
            }
            b'q' => self.memo_put(1),
            b'r' => self.memo_put(4),
            0x94 => self.memo_append(),
            b'h' => self.memo_get(1),
            b'j' => self.memo_get(4),
            b'c' => self.push_global_lines(),
            0x93 => self.push_global_stack(),
            b'Q' => self.persistent_load(),
            b'R' => self.reduce(),
            b'b' => self.build(),
            _ => self.unsupported(format!(
                "pickle opcode {opcode:#04x} at byte {}",
                self.at - 1
            )),
        }
    }

    fn take(&mut self, len: usize) -> Outcome<&'a [u8]> {
        match self.bytes.get(self.at..self.at.saturating_add(len)) {
            Some(bytes) => {
                self.at += len;
                Ok(bytes)
            }
            None => self.corrupt("unexpected end"),
        }
    }

    /// An unsigned little-endian number of one to four bytes.
    fn take_unsigned(&mut self, len: usize) -> Outcome<u32> {
        let bytes = self.take(len)?;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |number, &byte| number << 8 | u32::from(byte)))
    }

    fn push(&mut self, value: Value) -> Outcome<()> {
        self.stack.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Outcome<Value> {
        match self.stack.pop() {
            None | Some(Value::Mark) => self.corrupt("a value is missing"),
            Some(value) => Ok(value),
        }
    }

    fn find_mark(&self) -> Outcome<usize> {
        match self.stack.iter().rposition(|value| *value == Value::Mark) {
            Some(mark) => Ok(mark),
            None => self.corrupt("a mark is missing"),
        }
    }

    fn push_int(&mut self, len: usize) -> Outcome<()> {
        let unsigned = self.take_unsigned(len)?;
        // Only the four-byte form has a sign.
        let number = if len == 4 {
            i64::from(unsigned.cast_signed())
        } else {
            i64::from(unsigned)
        };
        self.push(Value::Int(number))
    }

    fn push_long(&mut self) -> Outcome<()> {
        let len = self.take(1)?[0];
        if len > 8 {
            return self.unsupported(format!("an integer of {len} bytes"));
        }
        let bytes = self.take(usize::from(len))?;
        let fill = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) {
            0xff
        } else {
            0
        };
        let mut wide = [fill; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(wide)))
    }

    fn push_text(&mut self, length_bytes: usize) -> Outcome<()> {
        let len = self.take_unsigned(length_bytes)? as usize;
        let start = self.at;
        match std::str::from_utf8(self.take(len)?) {
            Ok(_) => self.push(Value::Text(start, start + len)),
            Err(_) => self.corrupt("text that is not UTF-8"),
        }
    }

    fn text(&self, start: usize, end: usize) -> &'a str {
        // Only `push_text` makes these ranges, after it has checked them.
        std::str::from_utf8(&self.bytes[start..end]).unwrap_or_default()
    }

    /// Turns everything on the stack from `first` on into a tuple.
    fn push_tuple(&mut self, first: usize) -> Outcome<()> {
        if self.stack[first..].contains(&Value::Mark) {
            return self.corrupt("a mark inside a tuple");
        }
        let start = self.items.len();
        self.items.extend(self.stack.drain(first..));
        self.push(Value::Tuple(start, self.items.len()))
    }

    fn push_last(&mut self, count: usize) -> Outcome<()> {
        match self.stack.len().checked_sub(count) {
            Some(first) => self.push_tuple(first),
            None => self.corrupt("a tuple lacks values"),
        }
    }

    fn push_dict(&mut self) -> Outcome<()> {
        self.dicts.push(Vec::new());
        self.push(Value::Dict(self.dicts.len() - 1))
    }

    /// Moves the pairs on the stack from `first` on into the dict just below them.
    fn set_items(&mut self, first: usize) -> Outcome<()> {
        let Some(&Value::Dict(dict)) = first.checked_sub(1).and_then(|below| self.stack.get(below))
        else {
            return self.corrupt("an item is set on what is no dict");
        };
        let pairs = &self.stack[first..];
        if !pairs.len().is_multiple_of(2) || pairs.contains(&Value::Mark) {
            return self.corrupt("a dict lacks a key or a value");
        }
        self.dicts[dict].extend(pairs.chunks_exact(2).map(|pair| (pair[0], pair[1])));
        self.stack.truncate(first);
        Ok(())
    }

    fn memo_put(&mut self, index_bytes: usize) -> Outcome<()> {
        let index = self.take_unsigned(index_bytes)?;
        self.memo_store(index)
    }

    fn memo_append(&mut self) -> Outcome<()> {
        self.memo_store(u32::try_from(self.memo.len()).unwrap_or(u32::MAX))
    }

    fn memo_store(&mut self, index: u32) -> Outcome<()> {
        let value = self.pop()?;
        self.memo.insert(index, value);
        self.push(value)
    }

    fn memo_get(&mut self, index_bytes: usize) -> Outcome<()> {
        let index = self.take_unsigned(index_bytes)?;
        match self.memo.get(&index) {
            Some(&value) => self.push(value),
            None => self.corrupt("a memo that was never stored"),
        }
    }

    fn push_global_lines(&mut self) -> Outcome<()> {
        let module = self.take_line()?;
        let name = self.take_line()?;
        self.push_global(&module, &name)
    }

    fn take_line(&mut self) -> Outcome<String> {
        let rest = &self.bytes[self.at..];
        match rest.iter().position(|&byte| byte == b'\n') {
            Some(len) => {
                self.at += len + 1;
                Ok(String::from_utf8_lossy(&rest[..len]).into_owned())
            }
            None => self.corrupt("a name without an end"),
        }
    }

    fn push_global_stack(&mut self) -> Outcome<()> {
        let name = self.pop()?;
        let module = self.pop()?;
        match (module, name) {
            (Value::Text(a, b), Value::Text(c, d)) => {
                self.push_global(self.text(a, b), self.text(c, d))
            }
            _ => self.corrupt("a global without a name"),
        }
    }

    fn push_global(&mut self, module: &str, name: &str) -> Outcome<()> {
        match Global::find(module, name) {
            Some(global) => self.push(Value::Global(global)),
            None => {
                let global = shorten(&format!("{module}.{name}"));
                Err(CheckpointError::RefusedGlobal {
                    file: self.file.to_owned(),
                    global,
                })
            }
        }
    }

    fn persistent_load(&mut self) -> Outcome<()> {
        let id = self.pop()?;
        match *self.tuple_items(id)? {
            [
                Value::Text(kind_start, kind_end),
                Value::Global(Global::StorageClass(stored)),
                Value::Text(start, end),
                _device,
                Value::Int(num_elements),
            ] if self.text(kind_start, kind_end) == "storage" && end - start <= MAX_KEY => {
                let key = self.text(start, end).to_owned();
                self.storages.push(Storage {
                    key,
                    stored,
                    num_elements,
                });
                self.push(Value::Storage(self.storages.len() - 1))
            }
            _ => self.unsupported("a reference to something that is no storage".to_owned()),
        }
    }

    fn tuple_items(&self, value: Value) -> Outcome<&[Value]> {
        match value {
            Value::Tuple(start, end) => Ok(&self.items[start..end]),
            _ => self.corrupt("wanted a tuple"),
        }
    }

    fn ints(&self, value: Value) -> Outcome<Vec<i64>> {
        let items = self.tuple_items(value)?;
        if items.len() > MAX_DIMENSIONS {
            return self.corrupt("a tensor of more than eight dimensions");
        }
        let ints: Option<Vec<i64>> = items
            .iter()
            .map(|item| {
                if let Value::Int(number) = item {
                    Some(*number)
                } else {
                    None
                }
            })
            .collect();
        match ints {
            Some(ints) => Ok(ints),
            _ => self.corrupt("a shape that is not made of whole numbers"),
        }
    }

    fn reduce(&mut self) -> Outcome<()> {
        let arguments = self.pop()?;
        let callable = self.pop()?;
        let arguments = self.tuple_items(arguments)?;
        match (callable, arguments) {
            (Value::Global(Global::OrderedDict), []) => self.push_dict(),
            (
                Value::Global(Global::RebuildTensor),
                &[
                    Value::Storage(storage),
                    Value::Int(offset),
                    shape,
                    strides,
                    ..,
                ],
            ) => {
                let (shape, strides) = (self.ints(shape)?, self.ints(strides)?);
                self.tensors.push(Tensor {
                    storage,
                    offset,
                    shape,
                    strides,
                });
                self.push(Value::Tensor(self.tensors.len() - 1))
            }
            (Value::Global(Global::RebuildParameter), &[tensor @ Value::Tensor(_), ..]) => {
                self.push(tensor)
            }
            (Value::Global(global), _) => {
                self.unsupported(format!("a call of {global:?} with other arguments"))
            }
            _ => self.corrupt("a call of what is no function"),
        }
    }

    /// Attributes set on an object, such as the `_metadata` of a state dict: dropped.
    fn build(&mut self) -> Outcome<()> {
        self.pop()?;
        match self.stack.last() {
            Some(Value::Dict(_)) => Ok(()),
            _ => self.unsupported("an attribute of something that is no dict".to_owned()),
        }
    }

    fn state_dict(&self, top: Value) -> Outcome<Vec<PickledTensor>> {
        let Value::Dict(dict) = top else {
            return self.unsupported("a top-level value that is no dict of tensors".to_owned());
        };
        let mut names = HashSet::new();
        let mut tensors = Vec::new();
        for &(key, value) in &self.dicts[dict] {
            let Value::Text(start, end) = key else {
                return self.unsupported("a key that is no text".to_owned());
            };
            let name = self.text(start, end);
            // Looked at before the name is copied: a name repeated by reference must not cost memory each time.
            if !names.insert(name) {
                return self.unsupported(format!("a second tensor {}", shorten(name)));
            }
            let Value::Tensor(index) = value else {
                return self.unsupported(format!("entry {}, which is no tensor,", shorten(name)));
            };
            tensors.push(self.named(name.to_owned(), &self.tensors[index]));
        }
        Ok(tensors)
    }

    fn named(&self, name: String, tensor: &Tensor) -> PickledTensor {
        PickledTensor {
            name,
            storage: self.storages[tensor.storage].clone(),
            offset: tensor.offset,
            shape: tensor.shape.clone(),
            strides: tensor.strides.clone(),
        }
    }
}

/// The start of a text from the file, for a message.
fn shorten(text: &str) -> String {
    text.chars().take(200).collect()
}
