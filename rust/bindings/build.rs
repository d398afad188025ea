//! Says for which Python the extension is compiled: `Py_LIMITED_API`, `Py_3_12`, `Py_GIL_DISABLED`.

fn main() {
    pyo3_build_config::use_pyo3_cfgs();
}
