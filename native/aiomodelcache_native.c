/* Rows of a whole reply in one call: header, checksum and fingerprint, then a dict for each row.
 *
 * msgspec decodes the payload, with the types of the columns, as it does without this module. So both decode the same
 * bytes to the same values. An entry that is not a current row is left to aiomodelcache: the whole call returns None.
 *
 * The layout of an entry is that of aiomodelcache/encoding/layout.py. INTERFACE changes with it, and with the arguments
 * below: aiomodelcache uses only the one that it knows.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <datetime.h>
#include <stdint.h>
#include <string.h>

#define INTERFACE 1
#define VALUE 'V'
#define GUARD_AT 17
#define GUARD_SIZE 24
#define CHECKSUM_AT (GUARD_AT + GUARD_SIZE)
#define BODY_AT (CHECKSUM_AT + 4)
#define CREATED_SIZE 8
#define HEADER_SIZE (BODY_AT + CREATED_SIZE)

typedef struct {
    uint32_t table[8][256]; /* of CRC-32, for eight bytes at a time; written once, before the module can be used */
    PyDateTime_CAPI *datetime; /* here, because datetime.h has it in a global variable */
} State;

typedef struct {
    PyObject_HEAD
    PyObject *read;     /* decodes a payload to a tuple of one value for each column */
    PyObject *names;    /* a tuple of the names of the columns */
    PyObject *loads;    /* a tuple of a function for each column, or None: converts what was decoded, unless None */
    PyObject *zones;    /* a tuple of a zone for each column, or None: takes the place of UTC */
    PyObject *template; /* a dict with all keys of a row, which each row is a copy of */
} RowDecoder;

static void
fill_table(State *state)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (0xEDB88320u & (0u - (crc & 1u)));
        state->table[0][byte] = crc;
    }
    for (int byte = 0; byte < 256; byte++)
        for (int each = 1; each < 8; each++) {
            uint32_t crc = state->table[each - 1][byte];
            state->table[each][byte] = (crc >> 8) ^ state->table[0][crc & 0xFF];
        }
}

static uint32_t
word(const unsigned char *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* Returns zlib.crc32(data, seed). */
static uint32_t
crc32_of(const State *state, const unsigned char *data, size_t size, uint32_t seed)
{
    const uint32_t(*table)[256] = state->table;
    uint32_t crc = ~seed;
    for (; size >= 8; size -= 8, data += 8) {
        uint32_t low = crc ^ word(data), high = word(data + 4);
        crc = table[7][low & 0xFF] ^ table[6][(low >> 8) & 0xFF] ^ table[5][(low >> 16) & 0xFF] ^ table[4][low >> 24] ^
              table[3][high & 0xFF] ^ table[2][(high >> 8) & 0xFF] ^ table[1][(high >> 16) & 0xFF] ^
              table[0][high >> 24];
    }
    for (; size; size--, data++)
        crc = (crc >> 8) ^ table[0][(crc ^ *data) & 0xFF];
    return ~crc;
}

/* Returns 1 if these are the bytes of a current row that is not due, else 0. */
static int
is_current(const State *state, const unsigned char *entry, Py_ssize_t size, const char *guard, const char *due)
{
    if (size < HEADER_SIZE || entry[0] != VALUE || memcmp(entry + GUARD_AT, guard, GUARD_SIZE) != 0 ||
        memcmp(entry + BODY_AT, due, CREATED_SIZE) <= 0)
        return 0;
    const unsigned char *sum = entry + CHECKSUM_AT;
    uint32_t expected = (uint32_t)sum[0] << 24 | (uint32_t)sum[1] << 16 | (uint32_t)sum[2] << 8 | (uint32_t)sum[3];
    return crc32_of(state, entry + BODY_AT, (size_t)(size - BODY_AT), entry[0]) == expected;
}

/* Returns a new reference to a decoded value as a row holds it. */
static PyObject *
converted(const State *state, PyObject *value, PyObject *load, PyObject *zone)
{
    PyDateTime_CAPI *api = state->datetime;
    if (zone != Py_None && Py_IS_TYPE(value, api->DateTimeType) &&
        PyDateTime_DATE_GET_TZINFO(value) == api->TimeZone_UTC)
        return api->DateTime_FromDateAndTimeAndFold(
            PyDateTime_GET_YEAR(value), PyDateTime_GET_MONTH(value), PyDateTime_GET_DAY(value),
            PyDateTime_DATE_GET_HOUR(value), PyDateTime_DATE_GET_MINUTE(value), PyDateTime_DATE_GET_SECOND(value),
            PyDateTime_DATE_GET_MICROSECOND(value), zone, PyDateTime_DATE_GET_FOLD(value), api->DateTimeType);
    return PyObject_CallOneArg(load, value);
}

/* Returns a new dict of a row. */
static PyObject *
decode(RowDecoder *self, const State *state, const char *payload, Py_ssize_t size)
{
    PyObject *data = PyBytes_FromStringAndSize(payload, size), *values, *row;
    if (data == NULL)
        return NULL;
    values = PyObject_CallOneArg(self->read, data);
    Py_DECREF(data);
    if (values == NULL)
        return NULL;
    Py_ssize_t number = PyTuple_GET_SIZE(self->names);
    if (!PyTuple_CheckExact(values) || PyTuple_GET_SIZE(values) != number) {
        Py_DECREF(values);
        PyErr_SetString(PyExc_TypeError, "a row has one value for each column");
        return NULL;
    }
    row = PyDict_Copy(self->template);
    for (Py_ssize_t at = 0; row != NULL && at < number; at++) {
        PyObject *value = PyTuple_GET_ITEM(values, at), *load = PyTuple_GET_ITEM(self->loads, at);
        if (value == Py_None || load == Py_None)
            Py_INCREF(value);
        else
            value = converted(state, value, load, PyTuple_GET_ITEM(self->zones, at));
        if (value == NULL || PyDict_SetItem(row, PyTuple_GET_ITEM(self->names, at), value) < 0)
            Py_CLEAR(row);
        Py_XDECREF(value);
    }
    Py_DECREF(values);
    return row;
}

PyDoc_STRVAR(rows_doc,
             "rows(entries, guard, due)\n--\n\n"
             "Returns a new dict for each entry, or None if one of them is not a current row that is not due.\n\n"
             "Does not raise what msgspec and a column's own function raise: it returns None.");

static PyObject *
RowDecoder_rows(RowDecoder *self, PyObject *args)
{
    PyObject *entries;
    const char *guard, *due;
    Py_ssize_t guard_size, due_size;
    if (!PyArg_ParseTuple(args, "O!y#y#:rows", &PyList_Type, &entries, &guard, &guard_size, &due, &due_size))
        return NULL;
    if (guard_size != GUARD_SIZE || due_size != CREATED_SIZE) {
        PyErr_SetString(PyExc_ValueError, "a guard has 24 bytes, and a time has 8");
        return NULL;
    }
    State *state = PyType_GetModuleState(Py_TYPE((PyObject *)self));
    PyObject *rows = state == NULL ? NULL : PyList_New(0);
    /* A column's own function may change the list, so its size is asked for again, and the entry is held. */
    for (Py_ssize_t at = 0; rows != NULL && at < PyList_GET_SIZE(entries); at++) {
        PyObject *entry = PyList_GET_ITEM(entries, at), *row = NULL;
        Py_INCREF(entry);
        if (PyBytes_CheckExact(entry)) {
            const char *data = PyBytes_AS_STRING(entry);
            Py_ssize_t size = PyBytes_GET_SIZE(entry);
            if (is_current(state, (const unsigned char *)data, size, guard, due))
                row = decode(self, state, data + HEADER_SIZE, size - HEADER_SIZE);
        }
        Py_DECREF(entry);
        if (row == NULL || PyList_Append(rows, row) < 0)
            Py_CLEAR(rows);
        Py_XDECREF(row);
    }
    if (rows != NULL)
        return rows;
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_Exception))
            return NULL;
        PyErr_Clear();
    }
    Py_RETURN_NONE;
}

static int
RowDecoder_traverse(RowDecoder *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->read);
    Py_VISIT(self->names);
    Py_VISIT(self->loads);
    Py_VISIT(self->zones);
    Py_VISIT(self->template);
    return 0;
}

static int
RowDecoder_clear(RowDecoder *self)
{
    Py_CLEAR(self->read);
    Py_CLEAR(self->names);
    Py_CLEAR(self->loads);
    Py_CLEAR(self->zones);
    Py_CLEAR(self->template);
    return 0;
}

static void
RowDecoder_dealloc(RowDecoder *self)
{
    PyTypeObject *type = Py_TYPE((PyObject *)self);
    PyObject_GC_UnTrack(self);
    RowDecoder_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *
RowDecoder_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"read", "names", "loads", "zones", "template", NULL};
    PyObject *read, *names, *loads, *zones, *template;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO!O!O!O!:RowDecoder", keywords, &read, &PyTuple_Type, &names,
                                     &PyTuple_Type, &loads, &PyTuple_Type, &zones, &PyDict_Type, &template))
        return NULL;
    if (PyTuple_GET_SIZE(loads) != PyTuple_GET_SIZE(names) || PyTuple_GET_SIZE(zones) != PyTuple_GET_SIZE(names)) {
        PyErr_SetString(PyExc_ValueError, "each column has a name, a function or None, and a zone or None");
        return NULL;
    }
    RowDecoder *self = (RowDecoder *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->read = Py_NewRef(read);
    self->names = Py_NewRef(names);
    self->loads = Py_NewRef(loads);
    self->zones = Py_NewRef(zones);
    self->template = PyDict_Copy(template);
    if (self->template == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static PyMethodDef RowDecoder_methods[] = {
    {"rows", (PyCFunction)RowDecoder_rows, METH_VARARGS, rows_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot RowDecoder_slots[] = {
    {Py_tp_doc, "RowDecoder(read, names, loads, zones, template)\n--\n\nA decoder of the rows of one model."},
    {Py_tp_new, RowDecoder_new},
    {Py_tp_dealloc, RowDecoder_dealloc},
    {Py_tp_traverse, RowDecoder_traverse},
    {Py_tp_clear, RowDecoder_clear},
    {Py_tp_methods, RowDecoder_methods},
    {0, NULL},
};

static PyType_Spec RowDecoder_spec = {
    .name = "aiomodelcache_native.RowDecoder",
    .basicsize = sizeof(RowDecoder),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = RowDecoder_slots,
};

static int
execute(PyObject *module)
{
    State *state = PyModule_GetState(module);
    fill_table(state);
    state->datetime = PyCapsule_Import(PyDateTime_CAPSULE_NAME, 0);
    if (state->datetime == NULL)
        return -1;
    PyObject *type = PyType_FromModuleAndSpec(module, &RowDecoder_spec, NULL);
    if (type == NULL)
        return -1;
    int failed = PyModule_AddType(module, (PyTypeObject *)type);
    Py_DECREF(type);
    return failed < 0 ? -1 : PyModule_AddIntConstant(module, "INTERFACE", INTERFACE);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "aiomodelcache_native",
    .m_doc = "Decodes the rows of aiomodelcache, many in one call.",
    .m_size = sizeof(State),
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit_aiomodelcache_native(void)
{
    return PyModuleDef_Init(&definition);
}
