// Python's view of the arena, of shared objects and of programs. What is checked where stands in program.h.
#include <dlfcn.h>
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <tuple>

#include "program.h"

namespace nb = nanobind;

namespace {

// A loaded shared object. It stays loaded: parameter sets hold addresses of its functions.
class Library {
  public:
    Library(const std::string& path, bool global) {
        handle_ = dlopen(path.c_str(), RTLD_NOW | (global ? RTLD_GLOBAL : RTLD_LOCAL));
        if (handle_ == nullptr) throw std::runtime_error(std::string("library: ") + dlerror());
    }
    uint64_t address(const std::string& symbol) const {
        dlerror();
        void* found = dlsym(handle_, symbol.c_str());
        if (found == nullptr) throw std::runtime_error("library: no symbol " + symbol);
        return reinterpret_cast<uint64_t>(found);
    }

  private:
    void* handle_;
};

constexpr size_t kMostImages = 1900;  // names stay below PATH_MAX

// A library from bytes, through a file that has no name and that nobody else can change. The loader takes two files of
// one name for the same, and descriptors are used again, so each gets a name of its own: as many "./" as came before.
Library from_bytes(const nb::bytes& image, const std::string& name) {
    static std::atomic<size_t> loaded{0};
    const size_t number = loaded++;
    if (number >= kMostImages) throw std::runtime_error("library: more than 1900 images in one process");
    const int fd = int(syscall(SYS_memfd_create, name.c_str(), 1u /* MFD_CLOEXEC */));
    if (fd < 0) throw std::runtime_error(std::string("library: no memory file: ") + std::strerror(errno));
    for (size_t done = 0; done < image.size();) {
        const ssize_t n = write(fd, image.c_str() + done, image.size() - done);
        if (n <= 0) {
            const std::string why = std::strerror(errno);
            close(fd);
            throw std::runtime_error("library: cannot write the memory file: " + why);
        }
        done += size_t(n);
    }
    try {
        std::string path = "/proc/self/fd/";
        for (size_t i = 0; i < number; ++i) path += "./";
        Library made(path + std::to_string(fd), false);
        close(fd);
        return made;
    } catch (...) {
        close(fd);
        throw;
    }
}

using View = nb::ndarray<nb::memview, uint8_t, nb::shape<-1>>;

std::vector<replay::Node> nodes_of(const std::vector<std::tuple<uint32_t, uint32_t, uint32_t, uint64_t>>& rows) {
    std::vector<replay::Node> nodes;
    for (const auto& [kind, first, slots, function] : rows) nodes.push_back({kind, first, slots, function});
    return nodes;
}

std::vector<replay::Pointer> pointers_of(const std::vector<std::tuple<uint32_t, uint32_t>>& rows) {
    std::vector<replay::Pointer> pointers;
    for (const auto& [slot, access] : rows) pointers.push_back({slot, access});
    return pointers;
}

std::vector<uint64_t> words(const nb::bytes& raw) {
    if (raw.size() % 8 != 0) throw std::invalid_argument("program: parameters are whole 8-byte slots");
    std::vector<uint64_t> out(raw.size() / 8);
    if (!out.empty()) std::memcpy(out.data(), raw.c_str(), raw.size());
    return out;
}

}  // namespace

NB_MODULE(_replay, m) {
    using replay::Arena;
    using replay::Program;
    nb::set_leak_warnings(false);  // a view that outlives the interpreter keeps its arena
    m.attr("MAX_ARGUMENTS") = replay::kMaxArguments;
    nb::class_<Library>(m, "Library")
        .def(nb::init<const std::string&, bool>(), nb::arg("path"), nb::arg("everywhere") = false,
             nb::call_guard<nb::gil_scoped_release>())  // a large library takes a third of a second
        .def_static("from_bytes", &from_bytes, nb::arg("image"), nb::arg("name"))
        .def("address", &Library::address, nb::arg("symbol"));
    nb::class_<Arena>(m, "Arena")
        .def(nb::init<uint64_t, uint64_t>(), nb::arg("base"), nb::arg("size"))
        .def_prop_ro("base", &Arena::address)
        .def_prop_ro("size", &Arena::size)
        .def_prop_ro("relocated", &Arena::relocated)
        .def("freeze", &Arena::freeze, nb::arg("offset"), nb::arg("length"))
        .def(
            "view",
            [](nb::handle self, uint64_t offset, uint64_t length) {
                const auto& arena = nb::cast<const Arena&>(self);
                if (offset > arena.size() || length > arena.size() - offset)
                    throw std::out_of_range("arena: view() is outside of it");
                return View(arena.data() + offset, {size_t(length)}, self);
            },
            nb::arg("offset"), nb::arg("length"));
    nb::class_<Program>(m, "Program")
        .def(
            "__init__",
            [](Program* self, std::shared_ptr<Arena> arena,
               const std::vector<std::tuple<uint32_t, uint32_t, uint32_t, uint64_t>>& nodes,
               const std::vector<std::tuple<uint32_t, uint32_t>>& pointers) {
                new (self) Program(std::move(arena), nodes_of(nodes), pointers_of(pointers));
            },
            nb::arg("arena"), nb::arg("nodes"), nb::arg("pointers"))
        .def(
            "add",
            [](Program& self, const nb::bytes& slots, const nb::bytes& extents) {
                const auto given = words(slots), sizes = words(extents);
                return self.add(given.data(), given.size(), sizes.data(), sizes.size());
            },
            nb::arg("slots"), nb::arg("extents"))
        .def("replay", &Program::replay, nb::arg("index"), nb::call_guard<nb::gil_scoped_release>())
        .def_prop_ro("nodes", &Program::nodes)
        .def_prop_ro("slots", &Program::slots)
        .def("__len__", &Program::sets);
}
