//! `SQLite`'s C interface, as far as it is needed, found at run time. All unsafe code about it is here.
#![expect(unsafe_code, reason = "what this module is for")]

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::marker::PhantomData;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

const OK: c_int = 0;
const ROW: c_int = 100;
const DONE: c_int = 101;
const FULL: c_int = 13;
/// Also of a quota, and of a limit on the size of files.
const IOERR_WRITE: c_int = 778;
/// The codes that say that the database is away, busy or full: BUSY, LOCKED, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN,
/// PROTOCOL.
const UNAVAILABLE: [c_int; 8] = [5, 6, 8, 9, 10, 13, 14, 15];

type Handle = *mut c_void;
type OnOpen = unsafe extern "C" fn(Handle, *mut *mut c_char, *const c_void) -> c_int;
type OnCommit = unsafe extern "C" fn(*mut c_void, Handle, *const c_char, c_int) -> c_int;
/// Null: the bytes stay where they are for as long as they are bound.
type Destructor = Option<unsafe extern "C" fn(*mut c_void)>;

macro_rules! functions {
    ($($name:ident: fn($($argument:ty),*) -> $result:ty),* $(,)?) => {
        /// The functions of one `SQLite` library, which stays loaded for as long as the process lives.
        #[derive(Clone, Copy)]
        pub struct Library {
            $($name: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl Library {
            fn find(loaded: &libloading::os::unix::Library) -> Option<Self> {
                Some(Self {
                    $(
                        // SAFETY: these are the types that SQLite documents for the functions of these names, which do not
                        // change; the library is never unloaded (`of` leaks it).
                        $name: *unsafe { loaded.get(concat!("sqlite3_", stringify!($name)).as_bytes()) }.ok()?,
                    )*
                })
            }
        }
    };
}

functions! {
    auto_extension: fn(OnOpen) -> c_int,
    threadsafe: fn() -> c_int,
    prepare_v2: fn(Handle, *const c_char, c_int, *mut Handle, *mut *const c_char) -> c_int,
    step: fn(Handle) -> c_int,
    reset: fn(Handle) -> c_int,
    clear_bindings: fn(Handle) -> c_int,
    finalize: fn(Handle) -> c_int,
    bind_null: fn(Handle, c_int) -> c_int,
    bind_int64: fn(Handle, c_int, i64) -> c_int,
    bind_double: fn(Handle, c_int, f64) -> c_int,
    bind_text: fn(Handle, c_int, *const c_char, c_int, Destructor) -> c_int,
    bind_blob: fn(Handle, c_int, *const c_void, c_int, Destructor) -> c_int,
    column_type: fn(Handle, c_int) -> c_int,
    column_int64: fn(Handle, c_int) -> i64,
    column_double: fn(Handle, c_int) -> f64,
    column_text: fn(Handle, c_int) -> *const u8,
    column_blob: fn(Handle, c_int) -> *const u8,
    column_bytes: fn(Handle, c_int) -> c_int,
    errmsg: fn(Handle) -> *const c_char,
    extended_errcode: fn(Handle) -> c_int,
    get_autocommit: fn(Handle) -> c_int,
    wal_hook: fn(Handle, Option<OnCommit>, *mut c_void) -> *mut c_void,
}

impl Library {
    /// The library that a loaded extension module uses, or the process itself where there is no `module` file; None where
    /// it cannot be found, may not be used by several threads, or is not the first one found in this process.
    #[must_use]
    pub fn of(module: Option<&Path>) -> Option<&'static Self> {
        use libloading::os::unix::{Library as Loaded, RTLD_LAZY};
        static FIRST: OnceLock<Library> = OnceLock::new();
        let loaded = match module {
            None => Loaded::this(),
            // SAFETY: the interpreter has loaded this module, so nothing of it runs for the first time now.
            Some(file) => unsafe { Loaded::open(Some(file), RTLD_LAZY) }.ok()?,
        };
        let library = Self::find(&loaded)?;
        std::mem::forget(loaded);
        // SAFETY: it takes nothing and returns how the library was compiled.
        let is_for_threads = unsafe { (library.threadsafe)() } != 0;
        let first = FIRST.get_or_init(|| library);
        let is_first = std::ptr::fn_addr_eq(first.auto_extension, library.auto_extension);
        (is_for_threads && is_first).then_some(first)
    }
}

thread_local! {
    /// While this thread looks: the library, and the connections that it has opened since.
    static OPENED: RefCell<Option<(&'static Library, Vec<Connection>)>> = const { RefCell::new(None) };
}

/// `SQLite` calls this for each connection that is opened in the process.
unsafe extern "C" fn on_open(handle: Handle, _message: *mut *mut c_char, _functions: *const c_void) -> c_int {
    // A thread that ends opens nothing that matters here.
    let _ = OPENED.try_with(|opened| {
        if let Ok(mut opened) = opened.try_borrow_mut()
            && let Some((library, connections)) = opened.as_mut()
        {
            connections.extend(Connection::anchored(library, handle));
        }
    });
    OK
}

/// `SQLite` calls this for each commit of a connection that is watched, with how many pages its log has now.
unsafe extern "C" fn on_commit(pages: *mut c_void, _connection: Handle, _name: *const c_char, count: c_int) -> c_int {
    // SAFETY: `watch_log` has given this pointer to `SQLite`, and what it points to is never freed.
    let pages = unsafe { &*pages.cast_const().cast::<AtomicU32>() };
    pages.store(count.unsigned_abs(), Ordering::Relaxed);
    OK
}

/// What `SQLite` has to say about a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqliteError {
    code: c_int,
    message: String,
}

impl SqliteError {
    /// Whether the database is away, busy or full, so that an immediate retry cannot succeed.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        UNAVAILABLE.contains(&(self.code & 0xff))
    }

    /// Whether the database takes no more, so that a smaller transaction may fit.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.code & 0xff == FULL || self.code == IOERR_WRITE
    }

    /// The code, extended where `SQLite` knows more than the primary one.
    #[must_use]
    pub fn code(&self) -> i32 {
        self.code
    }
}

impl fmt::Display for SqliteError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for SqliteError {}

/// A connection that its owner has opened and will close.
///
/// It holds a statement, so it does not dangle: `SQLite` keeps a connection that was closed until its last statement has gone,
/// and refuses new ones of it.
pub struct Connection {
    handle: Handle,
    library: &'static Library,
    /// None only while it is made.
    anchor: Option<Statement>,
}

// SAFETY: the library is one that lets a connection be used by one thread after the other, and `&mut` or a lock around it
// sees to that.
unsafe impl Send for Connection {}

impl Connection {
    /// Runs a function that opens one connection of `library`, and gets hold of that connection. None where it opened none
    /// or several in this thread.
    pub fn catch<R>(library: &'static Library, open: impl FnOnce() -> R) -> (R, Option<Self>) {
        // SAFETY: `on_open` is what SQLite wants here. Naming it again does nothing; it is never taken back, because another thread
        // may be reading it, and without a watcher it does nothing.
        let registered = unsafe { (library.auto_extension)(on_open) } == OK;
        OPENED.set(registered.then(|| (library, Vec::new())));
        let result = open();
        let mut opened = OPENED.take().map(|(_, connections)| connections).unwrap_or_default();
        let connection = if opened.len() == 1 { opened.pop() } else { None };
        (result, connection)
    }

    /// The connection is being opened, so it lives.
    fn anchored(library: &'static Library, handle: Handle) -> Option<Self> {
        let mut connection = Self { handle, library, anchor: None };
        connection.anchor = Some(connection.prepare("SELECT 1").ok()?);
        Some(connection)
    }

    /// A statement of this connection.
    ///
    /// # Errors
    /// What `SQLite` finds wrong with it.
    pub(super) fn prepare(&self, sql: &str) -> Result<Statement, SqliteError> {
        let mut raw = ptr::null_mut();
        let length = c_int::try_from(sql.len()).expect("a short text");
        // SAFETY: the handle is that of a connection that cannot have been freed (see the type); the text has `length` bytes.
        let code = unsafe {
            (self.library.prepare_v2)(self.handle, sql.as_ptr().cast(), length, &raw mut raw, ptr::null_mut())
        };
        match NonNull::new(raw) {
            Some(raw) if code == OK => Ok(Statement { raw, finalize: self.library.finalize }),
            _ => Err(self.error(code)),
        }
    }

    fn error(&self, code: c_int) -> SqliteError {
        // SAFETY: SQLite returns a text that ends with NUL and stays until the next call on this connection.
        let message = unsafe { CStr::from_ptr((self.library.errmsg)(self.handle)) };
        // SAFETY: the connection lives.
        let extended = unsafe { (self.library.extended_errcode)(self.handle) };
        // A code that is not of the last call, as of a text that is too long to be bound, has no extended one.
        let code = if extended & 0xff == code & 0xff { extended } else { code };
        SqliteError { code, message: message.to_string_lossy().into_owned() }
    }

    /// Whether a transaction is open.
    pub(super) fn is_in_transaction(&self) -> bool {
        // SAFETY: the connection lives.
        unsafe { (self.library.get_autocommit)(self.handle) == 0 }
    }

    /// How many pages the write-ahead log has, from the next commit on. Takes the place of an automatic checkpoint.
    ///
    /// The number is never freed: the connection may outlive its borrower.
    pub(super) fn watch_log(&self) -> &'static AtomicU32 {
        let pages: &'static AtomicU32 = Box::leak(Box::new(AtomicU32::new(0)));
        // SAFETY: the connection lives; `on_commit` only reads what it is given, and that only through shared references.
        unsafe { (self.library.wal_hook)(self.handle, Some(on_commit), ptr::from_ref(pages).cast_mut().cast()) };
        pages
    }

    /// Runs a statement that returns no row.
    pub(super) fn execute(&self, statement: &mut Statement, values: &[Value<'_>]) -> Result<(), SqliteError> {
        self.first_row::<0>(statement, values).map(|_| ())
    }

    /// Runs a statement until its first row: whole numbers of its first columns.
    pub(super) fn first_row<const COLUMNS: usize>(
        &self,
        statement: &mut Statement,
        values: &[Value<'_>],
    ) -> Result<Option<[i64; COLUMNS]>, SqliteError> {
        let mut rows = self.run(statement, values)?;
        Ok(rows.next()?.map(|row| {
            let mut at = -1;
            [(); COLUMNS].map(|()| {
                at += 1;
                row.int(at)
            })
        }))
    }

    /// Runs a statement; it ends with what is returned.
    pub(super) fn run<'a>(
        &'a self,
        statement: &'a mut Statement,
        values: &'a [Value<'a>],
    ) -> Result<Rows<'a>, SqliteError> {
        let raw = statement.raw.as_ptr();
        // Made first: what has been bound is taken back however this ends. It borrows what is bound.
        let rows = Rows { connection: self, raw, _bound: PhantomData };
        for (at, value) in (1..).zip(values) {
            // SAFETY: the statement lives and is not under way. What is bound stays where it is until `Rows` is dropped,
            // which borrows `values`.
            let code = unsafe { self.bind(raw, at, *value) };
            if code != OK {
                return Err(self.error(code));
            }
        }
        Ok(rows)
    }

    /// Binds without a copy; a text or blob that is too long for `SQLite` gives its error.
    unsafe fn bind(&self, raw: Handle, at: c_int, value: Value<'_>) -> c_int {
        const TOO_BIG: c_int = 18;
        let library = self.library;
        let length = |bytes: &[u8]| c_int::try_from(bytes.len());
        // SAFETY: the caller's.
        unsafe {
            match value {
                Value::Null => (library.bind_null)(raw, at),
                Value::Int(number) => (library.bind_int64)(raw, at, number),
                Value::Real(number) => (library.bind_double)(raw, at, number),
                Value::Text(text) => match length(text.as_bytes()) {
                    Ok(length) => (library.bind_text)(raw, at, text.as_ptr().cast(), length, None),
                    Err(_) => TOO_BIG,
                },
                // The pointer of an empty slice is not null, so this is an empty blob and not NULL.
                Value::Blob(bytes) => match length(bytes) {
                    Ok(length) => (library.bind_blob)(raw, at, bytes.as_ptr().cast(), length, None),
                    Err(_) => TOO_BIG,
                },
            }
        }
    }
}

/// The rows of a statement that is under way.
pub(super) struct Rows<'a> {
    connection: &'a Connection,
    raw: Handle,
    _bound: PhantomData<(&'a mut Statement, &'a [Value<'a>])>,
}

impl Rows<'_> {
    /// The next row, if there is one.
    pub(super) fn next(&mut self) -> Result<Option<Row<'_>>, SqliteError> {
        // SAFETY: the statement lives, and this thread is the only one that uses its connection.
        match unsafe { (self.connection.library.step)(self.raw) } {
            ROW => Ok(Some(Row { library: self.connection.library, raw: self.raw, _rows: PhantomData })),
            DONE => Ok(None),
            code => Err(self.connection.error(code)),
        }
    }
}

impl Drop for Rows<'_> {
    fn drop(&mut self) {
        let library = self.connection.library;
        // SAFETY: as above. What reset returns is the error of step once more.
        unsafe {
            (library.reset)(self.raw);
            (library.clear_bindings)(self.raw);
        }
    }
}

/// A row, until the next one is asked for. Columns that are not there are NULL, which reads as 0 or nothing.
pub(super) struct Row<'a> {
    library: &'static Library,
    raw: Handle,
    _rows: PhantomData<&'a ()>,
}

impl Row<'_> {
    pub(super) fn int(&self, at: c_int) -> i64 {
        // SAFETY: the statement stands on a row, here and below.
        unsafe { (self.library.column_int64)(self.raw, at) }
    }

    /// None of NULL.
    pub(super) fn real(&self, at: c_int) -> Option<f64> {
        const NULL: c_int = 5;
        // SAFETY: as above.
        unsafe {
            ((self.library.column_type)(self.raw, at) != NULL).then(|| (self.library.column_double)(self.raw, at))
        }
    }

    /// None of what is no UTF-8.
    pub(super) fn text(&self, at: c_int) -> Option<&str> {
        // SAFETY: as above. What is returned stays until the row does not, and this borrows the row.
        std::str::from_utf8(unsafe { self.bytes((self.library.column_text)(self.raw, at), at) }).ok()
    }

    pub(super) fn blob(&self, at: c_int) -> &[u8] {
        // SAFETY: as above.
        unsafe { self.bytes((self.library.column_blob)(self.raw, at), at) }
    }

    /// `start` is what `SQLite` has just returned for this column.
    unsafe fn bytes(&self, start: *const u8, at: c_int) -> &[u8] {
        // SAFETY: the caller's: asked for after the pointer, the length is that of what it points to.
        let length = unsafe { (self.library.column_bytes)(self.raw, at) };
        match usize::try_from(length) {
            // SAFETY: as above.
            Ok(length) if !start.is_null() => unsafe { std::slice::from_raw_parts(start, length) },
            _ => &[],
        }
    }
}

/// A prepared statement of a connection.
pub(super) struct Statement {
    raw: NonNull<c_void>,
    finalize: unsafe extern "C" fn(Handle) -> c_int,
}

impl Drop for Statement {
    fn drop(&mut self) {
        // SAFETY: the statement is of this library, and no other reference exists. Its connection lives until it is gone.
        unsafe { (self.finalize)(self.raw.as_ptr()) };
    }
}

// SAFETY: as for its connection.
unsafe impl Send for Statement {}

/// A parameter of a statement.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    Null,
    Int(i64),
    Real(f64),
    Text(&'a str),
    Blob(&'a [u8]),
}
