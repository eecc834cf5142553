// A guest under load: pages come and go at random, and the host plugs a block when the guest runs short.
#include <fastonline.h>

#include <random>
#include <vector>

static fastonline_api *fo;

// run(mem, start_pfn, nr_pages, steps): (pages plugged, pages in use, pages free); the range is added and prepared.
static PyObject *run(PyObject *, PyObject *args)
{
    PyObject *object;
    unsigned long long start, nr, steps;
    if (!PyArg_ParseTuple(args, "OKKK", &object, &start, &nr, &steps))
        return nullptr;
    fastonline_memory *mem = fo->memory(object);
    PyObject *held = mem ? fo->own(object) : nullptr;       // other threads wait until it is given up
    if (!held)
        return nullptr;

    const int zone = fo->page_zone(mem, start);
    int64_t plugged = 0, error = 0;
    std::vector<uint64_t> used;
    Py_BEGIN_ALLOW_THREADS
    std::mt19937_64 random(1);
    for (uint64_t step = 0; step < steps && error >= 0; step++) {
        if (!used.empty() && random() % 3 == 0) {
            std::swap(used[random() % used.size()], used.back());
            error = fo->free_page(mem, used.back(), 0);
            used.pop_back();
            continue;
        }
        int64_t pfn = fo->alloc_page(mem, zone, 0);
        if (pfn < 0 && plugged < (int64_t)nr) {             // -ENOMEM: plug 4 MiB more
            error = fo->online_range(mem, start + plugged, 1024, -1);
            plugged += error;
            pfn = fo->alloc_page(mem, zone, 0);
        }
        if (pfn >= 0)
            used.push_back(pfn);
    }
    Py_END_ALLOW_THREADS
    const int64_t free = fo->counter(mem, zone, FASTONLINE_COUNT_FREE_PAGES, 0);
    Py_DECREF(held);
    if (error < 0) {
        errno = (int)-error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return Py_BuildValue("LnL", (long long)plugged, (Py_ssize_t)used.size(), (long long)free);
}

static PyMethodDef methods[] = {{"run", run, METH_VARARGS, "Run the guest."}, {}};
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "simulator", nullptr, -1, methods};

PyMODINIT_FUNC PyInit_simulator()
{
    fo = fastonline_import();           // checks the ABI number
    return fo ? PyModule_Create(&module) : nullptr;
}
