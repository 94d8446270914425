// Plays a file of bus commands on the simulated accelerator and writes a file of answers:
//
//   simulation COMMANDS ANSWERS LIMIT [+PLUSARG...]
//
// One source for both simulators: Verilator's class of module testbench, or, with LOCKSTEP_CXXRTL,
// the one that yosys' write_cxxrtl makes of it. All accesses go over the AXI4-Lite bus, except those
// to the external memory, which is none of the accelerator's.
//
// Commands are little-endian 32-bit words:
//    0                    end
//    1 ADDRESS N WORD...  write N words at successive bus addresses
//    2 ADDRESS N          read N words; they are appended to the answers
//    3 CONTROL            write CONTROL to the control register, wait for the interrupt
//    4 ADDRESS WORD       write; appended: the response
//    5 ADDRESS            read; appended: the response and the word
//    6 N                  wait for the interrupt, at most N cycles; appended: its level, the cycles
//    7 N                  hold the reset for N cycles
//    8 N                  let N cycles pass
//    9 ADDRESS N WORD...  write N words of the external memory, in no time
//   10 ADDRESS N          read them
//   11                    print "." on the standard output: progress
// Commands 1 to 3 must be answered OKAY. A refused one, a truncated file, a wait of more than LIMIT
// cycles end the run with one line on the standard error and exit status 1; otherwise the last line
// of the standard output is the number of clock cycles.

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#ifdef LOCKSTEP_CXXRTL
#include "testbench.cxxrtl.h"
static cxxrtl_design::p_testbench design;
#define GET(port) design.p_##port.get<uint32_t>()
#define SET(port, value) design.p_##port.set<uint32_t>(value)
static void evaluate() { design.step(); }
#else
#include "Vtop.h"
#include "verilated.h"
static Vtop* top;
#define GET(port) static_cast<uint32_t>(top->port)
#define SET(port, value) top->port = (value)
static void evaluate() { top->eval(); }
double sc_time_stamp() { return 0; }
#endif

#ifdef LOCKSTEP_MEMORY
#include "Vtop__Dpi.h"
#endif

constexpr uint32_t CONTROL_REGISTER = 0x0C, OKAY = 0;

static std::vector<uint32_t> commands, answers;
static size_t position = 0;
static uint64_t cycles = 0, limit = 0;

[[noreturn]] static void fail(const char* text, ...) {
  va_list values;
  va_start(values, text);
  vfprintf(stderr, text, values);
  fputc('\n', stderr);
  exit(1);
}

static uint32_t next() {
  if (position == commands.size()) fail("the command file is truncated");
  return commands[position++];
}

// A clock cycle is low(), in which outputs answer the inputs, then high().
static void low() { SET(clk, 0); evaluate(); }
static void high() { SET(clk, 1); evaluate(); ++cycles; }

// Let cycles pass until the condition holds in the low half of one; false after `most` cycles.
template <typename Condition> static bool wait_for(Condition condition, uint64_t most) {
  for (uint64_t end = cycles + most; cycles < end;) {
    low();
    bool holds = condition();
    high();
    if (holds) return true;
  }
  return false;
}

static uint32_t bus_write(uint32_t address, uint32_t word) {
  uint32_t response = 0;
  SET(awaddr, address); SET(wdata, word); SET(awvalid, 1);
  bool answered = wait_for([] { return GET(awready) != 0; }, limit);
  SET(awvalid, 0);
  answered = answered && wait_for([&] { response = GET(bresp); return GET(bvalid) != 0; }, limit);
  if (!answered) fail("the write to %08x is not answered after %llu cycles", address,
                      (unsigned long long)limit);
  return response;
}

static uint32_t bus_read(uint32_t address, uint32_t& word) {
  uint32_t response = 0;
  SET(araddr, address); SET(arvalid, 1);
  bool answered = wait_for([] { return GET(arready) != 0; }, limit);
  SET(arvalid, 0);
  answered = answered && wait_for([&] {
    response = GET(rresp); word = GET(rdata); return GET(rvalid) != 0; }, limit);
  if (!answered) fail("the read of %08x is not answered after %llu cycles", address,
                      (unsigned long long)limit);
  return response;
}

static void write_okay(uint32_t address, uint32_t word) {
  if (uint32_t response = bus_write(address, word); response != OKAY)
    fail("the write to %08x is answered %u", address, response);
}

static void pass(uint64_t n) { wait_for([] { return false; }, n); }

static bool interrupted() { return GET(finished) != 0; }

static void reset(uint64_t n) { SET(rst, 1); pass(n); SET(rst, 0); pass(2); }

static void transfer(bool writes, bool external) {
  uint32_t address = next(), n = next(), word = 0;
  for (; n > 0; --n, address += 4) {
    if (external) {
#ifdef LOCKSTEP_MEMORY
      if (writes) memory_poke(address, next());
      else answers.push_back(memory_peek(address));
      continue;
#else
      fail("this accelerator has no external memory");
#endif
    }
    if (writes) {
      write_okay(address, next());
    } else {
      if (uint32_t response = bus_read(address, word); response != OKAY)
        fail("the read of %08x is answered %u", address, response);
      answers.push_back(word);
    }
  }
}

static void play() {
  for (;;) {
    size_t at = position;
    switch (uint32_t opcode = next()) {
      case 0: return;
      case 1: transfer(true, false); break;
      case 2: transfer(false, false); break;
      case 3:
        write_okay(CONTROL_REGISTER, next());
        pass(4);  // the interrupt of the run before falls
        if (!wait_for(interrupted, limit))
          fail("no interrupt after %llu cycles (command at word %zu)", (unsigned long long)limit,
               at);
        break;
      case 4: { uint32_t address = next(); answers.push_back(bus_write(address, next())); break; }
      case 5: {
        uint32_t word = 0, response = bus_read(next(), word);
        answers.push_back(response); answers.push_back(word);
        break;
      }
      case 6: {
        uint64_t begin = cycles;
        answers.push_back(wait_for(interrupted, next()));
        answers.push_back(static_cast<uint32_t>(cycles - begin));
        break;
      }
      case 7: reset(next()); break;
      case 8: pass(next()); break;
      case 9: transfer(true, true); break;
      case 10: transfer(false, true); break;
      case 11: puts("."); fflush(stdout); break;
      default: fail("unknown command %u at word %zu", opcode, at);
    }
  }
}

int main(int argc, char** argv) {
  if (argc < 4) fail("usage: %s COMMANDS ANSWERS LIMIT [+PLUSARG...]", argv[0]);
  FILE* file = fopen(argv[1], "rb");
  if (!file) fail("cannot read %s", argv[1]);
  fseek(file, 0, SEEK_END);
  commands.resize(ftell(file) / 4);
  rewind(file);
  if (fread(commands.data(), 4, commands.size(), file) != commands.size())
    fail("cannot read %s", argv[1]);
  fclose(file);
  limit = strtoull(argv[3], nullptr, 10);
#ifndef LOCKSTEP_CXXRTL
  Verilated::commandArgs(argc, argv);
  top = new Vtop;
#endif
#ifdef LOCKSTEP_MEMORY
  svSetScope(svGetScopeFromName("TOP.testbench"));
#endif
  reset(2);
  play();
  file = fopen(argv[2], "wb");
  if (!file || fwrite(answers.data(), 4, answers.size(), file) != answers.size() || fclose(file))
    fail("cannot write %s", argv[2]);
  printf("%llu\n", static_cast<unsigned long long>(cycles));
}
