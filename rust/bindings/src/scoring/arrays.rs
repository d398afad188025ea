//! Buffers of the caller: held for as long as a call lasts, checked once, read through raw pointers.

use agent_memory_core::scoring::kernels::{Element, MAX_DIMENSIONS, Rows};
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

/// A two-dimensional array of vectors, exported by its owner: it can be written but neither freed nor resized.
pub(crate) struct Matrix {
    buffer: PyUntypedBuffer,
    element: Element,
}

fn element_of(buffer: &PyUntypedBuffer, name: &str) -> PyResult<Element> {
    match buffer.format().to_bytes() {
        b"f" | b"=f" | b"@f" => Ok(Element::F32),
        b"d" | b"=d" | b"@d" => Ok(Element::F64),
        b"e" | b"=e" | b"@e" => Ok(Element::F16),
        other => Err(PyTypeError::new_err(format!(
            "{name} must be an array of float16, float32 or float64 in native byte order, got format {:?}",
            String::from_utf8_lossy(other)
        ))),
    }
}

impl Matrix {
    /// Exports `array`; `name` is what the caller calls it.
    pub(crate) fn export(array: &Bound<'_, PyAny>, name: &str) -> PyResult<Self> {
        let buffer = PyUntypedBuffer::get(array)
            .map_err(|_| PyTypeError::new_err(format!("{name} must be a numpy array, got {}", type_name(array))))?;
        let element = element_of(&buffer, name)?;
        if buffer.dimensions() != 2 {
            let shape = buffer.shape();
            return Err(PyValueError::new_err(format!("{name} must have 2 dimensions (n, d), got shape {shape:?}")));
        }
        let (rows, width) = (buffer.shape()[0], buffer.shape()[1]);
        if width == 0 || width > MAX_DIMENSIONS {
            return Err(PyValueError::new_err(format!("{name} must have 1 to {MAX_DIMENSIONS} columns, got {width}")));
        }
        if u32::try_from(rows).is_err() {
            return Err(PyValueError::new_err(format!("{name} must have fewer than 2**32 rows, got {rows}")));
        }
        let stride = buffer.strides()[1];
        if rows > 0 && width > 1 && usize::try_from(stride) != Ok(element.size()) {
            return Err(PyValueError::new_err(format!(
                "{name} must be contiguous along its last axis (stride {} bytes), got stride {stride}; \
                 numpy.ascontiguousarray({name}) makes it so",
                element.size()
            )));
        }
        Ok(Self { buffer, element })
    }

    /// The rows, for as long as the export lives.
    #[allow(unsafe_code)]
    pub(crate) fn rows(&self) -> Rows<'_> {
        let (shape, strides) = (self.buffer.shape(), self.buffer.strides());
        // SAFETY: the export keeps the memory of `shape` and `strides` allocated as long as `self` lives; the last axis
        // was checked to be contiguous elements of this type. Writes by others are allowed by `Rows`.
        unsafe { Rows::from_raw(self.buffer.buf_ptr().cast(), shape[0], shape[1], strides[0], self.element) }
    }
}

/// Copies a vector of any float type as `f64`; every element must be finite and the length `dimensions`.
pub(crate) fn vector(array: &Bound<'_, PyAny>, name: &str, dimensions: Option<usize>) -> PyResult<Vec<f64>> {
    let values = column(array, name, None)?;
    if let Some(expected) = dimensions
        && values.len() != expected
    {
        let got = values.len();
        return Err(PyValueError::new_err(format!("{name} must have {expected} elements, got {got}")));
    }
    // Counting goes through several at once, looking for the first one does not.
    if values.iter().filter(|v| !v.is_finite()).count() > 0
        && let Some(index) = values.iter().position(|v| !v.is_finite())
    {
        return Err(PyValueError::new_err(format!("{name} must be finite, got {} at {index}", values[index])));
    }
    Ok(values)
}

/// Copies a one-dimensional float array as `f64`.
#[allow(unsafe_code)]
pub(crate) fn column(array: &Bound<'_, PyAny>, name: &str, len: Option<usize>) -> PyResult<Vec<f64>> {
    let buffer = PyUntypedBuffer::get(array)
        .map_err(|_| PyTypeError::new_err(format!("{name} must be a numpy array, got {}", type_name(array))))?;
    let element = element_of(&buffer, name)?;
    check_one_dimension(&buffer, name, len)?;
    // SAFETY: the export keeps the memory allocated during this function; each "row" is one element.
    let rows = unsafe { Rows::from_raw(buffer.buf_ptr().cast(), buffer.shape()[0], 1, buffer.strides()[0], element) };
    Ok(rows.column())
}

/// The positions of the true elements of a boolean array of `len` elements.
#[allow(unsafe_code)]
pub(crate) fn true_positions(array: &Bound<'_, PyAny>, name: &str, len: usize) -> PyResult<Vec<u32>> {
    let buffer = PyUntypedBuffer::get(array)
        .map_err(|_| PyTypeError::new_err(format!("{name} must be a numpy array, got {}", type_name(array))))?;
    if buffer.format().to_bytes() != b"?" {
        let format = buffer.format();
        return Err(PyTypeError::new_err(format!("{name} must be an array of bool, got format {format:?}")));
    }
    check_one_dimension(&buffer, name, Some(len))?;
    let stride = buffer.strides()[0];
    let start = buffer.buf_ptr().cast::<u8>().cast_const();
    let is_true = |&position: &u32| {
        let offset = isize::try_from(position).expect("an array fits the address space") * stride;
        // SAFETY: `position` is below the checked length, and the export keeps the memory allocated.
        unsafe { start.offset(offset).read() != 0 }
    };
    let len = u32::try_from(len).map_err(|_| PyValueError::new_err(format!("{name} is too long")))?;
    Ok((0..len).filter(is_true).collect())
}

fn check_one_dimension(buffer: &PyUntypedBuffer, name: &str, len: Option<usize>) -> PyResult<()> {
    let shape = buffer.shape();
    if shape.len() != 1 {
        return Err(PyValueError::new_err(format!("{name} must have 1 dimension, got shape {shape:?}")));
    }
    match len {
        Some(len) if shape[0] != len => {
            Err(PyValueError::new_err(format!("{name} must have one element per row ({len}), got {}", shape[0])))
        }
        _ => Ok(()),
    }
}

pub(crate) fn type_name(value: &Bound<'_, PyAny>) -> String {
    value.get_type().name().map_or_else(|_| "an object".to_owned(), |name| name.to_string())
}
