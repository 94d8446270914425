// External memory behind an AXI4 slave port, for simulation. It checks the master as it goes.
//
// Behaviour: one address channel transfer per cycle, one data beat per cycle, everything in order,
//   with the ID of the address.
//   The first beat of a read is offered READ_LATENCY cycles after its address was taken, the
//   response of a write WRITE_LATENCY cycles after its last beat; at most OUTSTANDING bursts of
//   each direction are open, then arready or awready stay low. Data is taken after its address
//   only. Bursts must be INCR, of whole bus words, and cross no 4 KB boundary; valid and payload
//   must stand until ready; wlast must fit awlen: anything else ends the simulation with $fatal.
//   Bytes outside [BASE, BASE + BYTES) answer DECERR.
// Parameters: BUS_BITS 64 or 128 (any power of two from 32); BYTES and BASE multiples of the bus
//   word; latencies in cycles, at least 1.
// Plusargs (all optional, decimal unless stated):
//   +axi_read_latency=N +axi_write_latency=N   in place of the parameters
//   +axi_outstanding=N                         at most OUTSTANDING
//   +axi_seed=S +axi_stalls=P                  every channel pauses in P % of the cycles
//   +axi_refuse_base=HEX +axi_refuse_limit=HEX beats that touch [base, limit) are refused: reads
//   +axi_refuse_response=2|3                   give noise, writes do nothing; SLVERR or DECERR
// Backdoor, in no simulated time, addresses in bytes, multiples of 4 (call hierarchically, between
// clock edges or in a clocked block that does not touch the same bytes over the bus):
//   poke(address, data32)    peek(address) -> data32
// Counters: n_read_beats, n_write_beats since reset.

module axi_memory #(
  parameter int BUS_BITS = 128, BYTES = 1 << 25, READ_LATENCY = 40, WRITE_LATENCY = 10,
                OUTSTANDING = 8,
  parameter [31:0] BASE = 0
) (
  input  wire clk, rst,
  input  wire arid, arvalid, input wire [31:0] araddr, input wire [7:0] arlen,
  input  wire [2:0] arsize, input wire [1:0] arburst, output reg arready,
  output reg rid, rvalid, output reg [BUS_BITS-1:0] rdata, output reg [1:0] rresp,
  output reg  rlast, input wire rready,
  input  wire awid, awvalid, input wire [31:0] awaddr, input wire [7:0] awlen,
  input  wire [2:0] awsize, input wire [1:0] awburst, output reg awready,
  input  wire wvalid, input wire [BUS_BITS-1:0] wdata, input wire [BUS_BITS/8-1:0] wstrb,
  input  wire wlast, output reg wready,
  output reg bid, bvalid, output reg [1:0] bresp, input wire bready,
  output reg [63:0] n_read_beats, n_write_beats
);
  localparam int BUS_BYTES = BUS_BITS / 8, PARTS = BUS_BITS / 32;
  localparam [1:0] OKAY = 0, DECERR = 3, INCR = 1;

  reg [31:0] storage [0:BYTES/4-1];

  int read_latency = READ_LATENCY, write_latency = WRITE_LATENCY, outstanding = OUTSTANDING;
  int stalls = 0, seed = 1;
  reg [31:0] refuse_base = 0, refuse_limit = 0;
  reg [1:0] refuse_response = 2;

  initial begin
    void'($value$plusargs("axi_read_latency=%d", read_latency));
    void'($value$plusargs("axi_write_latency=%d", write_latency));
    void'($value$plusargs("axi_outstanding=%d", outstanding));
    void'($value$plusargs("axi_stalls=%d", stalls));
    void'($value$plusargs("axi_seed=%d", seed));
    void'($value$plusargs("axi_refuse_base=%h", refuse_base));
    void'($value$plusargs("axi_refuse_limit=%h", refuse_limit));
    void'($value$plusargs("axi_refuse_response=%d", refuse_response));
    if (outstanding < 1 || outstanding > OUTSTANDING)
      $fatal(1, "axi_memory: outstanding must be in 1..%0d, not %0d", OUTSTANDING, outstanding);
    if (read_latency < 1 || write_latency < 1) $fatal(1, "axi_memory: latencies start at 1");
  end

  task poke(input [31:0] address, input [31:0] data);
    check_backdoor(address);
    storage[(address - BASE) >> 2] = data;
  endtask

  function [31:0] peek(input [31:0] address);
    check_backdoor(address);
    peek = storage[(address - BASE) >> 2];
  endfunction

  function automatic void check_backdoor(input [31:0] address);
    if (address - BASE >= BYTES || address[1:0] != 0)
      $fatal(1, "axi_memory: no word at %h", address);
  endfunction

  // xorshift: the same stalls from the same seed in every simulator. Noise is registered and
  // handed to functions, as Verilator 5.048 forgets from one cycle to the next what a task's inout
  // argument has left in a variable that only such tasks and the reset use.
  function automatic [31:0] stir(input [31:0] noise);
    stir = noise ^ (noise << 13);
    stir = stir ^ (stir >> 17);
    stir = stir ^ (stir << 5);
  endfunction

  function automatic pauses(input [31:0] noise);
    pauses = noise % 100 < stalls;
  endfunction

  function automatic [1:0] response(input [31:0] address);
    if (address - BASE >= BYTES) return DECERR;
    if (address < refuse_limit && {1'b0, address} + BUS_BYTES > {1'b0, refuse_base})
      return refuse_response;
    return OKAY;
  endfunction

  function automatic void check_burst(input string channel, input [31:0] address,
                                      input [7:0] length, input [2:0] size, input [1:0] burst);
    if (burst != INCR || 1 << size != BUS_BYTES || address % BUS_BYTES != 0)
      $fatal(1, "axi_memory: %s burst of type %0d, size %0d at %h", channel, burst, size, address);
    if ({20'b0, address[11:0]} + (32'(length) + 1) * BUS_BYTES > 4096)
      $fatal(1, "axi_memory: %s burst of %0d beats at %h crosses 4 KB", channel, length + 1,
             address);
  endfunction

  // A valid that was not accepted stands, with its payload.
  reg ar_waits, aw_waits, w_waits;
  reg [45:0] ar_payload, aw_payload;
  reg [BUS_BITS + BUS_BYTES:0] w_payload;
  wire [45:0] ar = {arid, araddr, arlen, arsize, arburst};
  wire [45:0] aw = {awid, awaddr, awlen, awsize, awburst};
  wire [BUS_BITS + BUS_BYTES:0] w = {wdata, wstrb, wlast};
  always @(posedge clk) begin
    ar_waits <= arvalid && !arready && !rst; ar_payload <= ar;
    aw_waits <= awvalid && !awready && !rst; aw_payload <= aw;
    w_waits <= wvalid && !wready && !rst; w_payload <= w;
    if (!rst) begin
      if (ar_waits && (!arvalid || ar != ar_payload)) $fatal(1, "axi_memory: AR was withdrawn");
      if (aw_waits && (!awvalid || aw != aw_payload)) $fatal(1, "axi_memory: AW was withdrawn");
      if (w_waits && (!wvalid || w != w_payload)) $fatal(1, "axi_memory: W was withdrawn");
    end
  end

  int now;
  always @(posedge clk) now <= rst ? 0 : now + 1;

  // Reads: a ring of accepted bursts, served in order.
  reg [31:0] read_address [0:OUTSTANDING-1];
  reg [8:0] read_beats [0:OUTSTANDING-1];  // still to be offered
  int read_due [0:OUTSTANDING-1];
  reg read_id [0:OUTSTANDING-1];
  int read_head, read_tail, n_reads;  // n_reads: not answered to the last beat
  int n_waiting;  // of these, not offered to the last beat
  reg [31:0] read_noise, write_noise;
  always @(posedge clk) if (rst) begin
    read_head = 0; read_tail = 0; n_reads = 0; n_waiting = 0;
    read_noise <= seed == 0 ? 1 : seed;
    arready <= 0; rvalid <= 0; n_read_beats <= 0;
  end else begin
    if (arvalid && arready) begin
      check_burst("read", araddr, arlen, arsize, arburst);
      read_id[read_tail] = arid;
      read_address[read_tail] = araddr;
      read_beats[read_tail] = arlen + 1;
      read_due[read_tail] = now + read_latency - 1;
      read_tail = (read_tail + 1) % OUTSTANDING;
      n_reads = n_reads + 1; n_waiting = n_waiting + 1;
    end
    if (rvalid && rready) begin
      n_read_beats <= n_read_beats + 1;
      if (rlast) n_reads = n_reads - 1;
    end
    if (!rvalid || rready) begin
      rvalid <= 0;
      if (n_waiting > 0 && now >= read_due[read_head] && !pauses(read_noise)) begin
        rvalid <= 1;
        rid <= read_id[read_head];
        rresp <= response(read_address[read_head]);
        for (int k = 0; k < PARTS; k++)
          rdata[32*k +: 32] <= response(read_address[read_head]) != OKAY ? 32'hBAD0BAD0
                               : storage[((read_address[read_head] - BASE) >> 2) + k];
        rlast <= read_beats[read_head] == 1;
        read_address[read_head] = read_address[read_head] + BUS_BYTES;
        read_beats[read_head] = read_beats[read_head] - 1;
        if (read_beats[read_head] == 0) begin
          read_head = (read_head + 1) % OUTSTANDING;
          n_waiting = n_waiting - 1;
        end
      end
    end
    arready <= n_reads < outstanding && !pauses(stir(read_noise));
    read_noise <= stir(stir(read_noise));
  end

  // Writes: a ring of accepted bursts; data goes to the oldest with beats owed.
  reg [31:0] write_address [0:OUTSTANDING-1];
  reg [8:0] write_beats [0:OUTSTANDING-1];  // still owed
  reg [1:0] write_response [0:OUTSTANDING-1];
  int write_due [0:OUTSTANDING-1];
  reg write_id [0:OUTSTANDING-1];
  int write_head, write_data, write_tail, n_writes;  // n_writes: without an accepted response
  int n_owing, n_responding;
  always @(posedge clk) if (rst) begin
    write_head = 0; write_data = 0; write_tail = 0; n_writes = 0; n_owing = 0; n_responding = 0;
    write_noise <= ~seed == 0 ? 1 : ~seed;
    awready <= 0; wready <= 0; bvalid <= 0; n_write_beats <= 0;
  end else begin
    if (awvalid && awready) begin
      check_burst("write", awaddr, awlen, awsize, awburst);
      write_id[write_tail] = awid;
      write_address[write_tail] = awaddr;
      write_beats[write_tail] = awlen + 1;
      write_response[write_tail] = OKAY;
      write_tail = (write_tail + 1) % OUTSTANDING;
      n_writes = n_writes + 1; n_owing = n_owing + 1;
    end
    if (wvalid && wready) begin
      n_write_beats <= n_write_beats + 1;
      if (wlast != (write_beats[write_data] == 1))
        $fatal(1, "axi_memory: wlast is %0d with %0d beats owed", wlast, write_beats[write_data]);
      if (response(write_address[write_data]) != OKAY)
        write_response[write_data] = response(write_address[write_data]);
      else for (int k = 0; k < BUS_BYTES; k++)
        if (wstrb[k])
          storage[(write_address[write_data] - BASE + k) >> 2][8*(k % 4) +: 8] = wdata[8*k +: 8];
      write_address[write_data] = write_address[write_data] + BUS_BYTES;
      write_beats[write_data] = write_beats[write_data] - 1;
      if (wlast) begin
        write_due[write_data] = now + write_latency - 1;
        write_data = (write_data + 1) % OUTSTANDING;
        n_owing = n_owing - 1; n_responding = n_responding + 1;
      end
    end
    if (bvalid && bready) n_writes = n_writes - 1;
    if (!bvalid || bready) begin
      bvalid <= 0;
      if (n_responding > 0 && now >= write_due[write_head] && !pauses(write_noise)) begin
        bvalid <= 1;
        bid <= write_id[write_head];
        bresp <= write_response[write_head];
        write_head = (write_head + 1) % OUTSTANDING;
        n_responding = n_responding - 1;
      end
    end
    awready <= n_writes < outstanding && !pauses(stir(write_noise));
    wready <= n_owing > 0 && !pauses(stir(stir(write_noise)));
    write_noise <= stir(stir(stir(write_noise)));
  end
endmodule
