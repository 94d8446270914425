// A bus master for the accelerator: runs a file of commands, writes a file of answers.
//
// Commands are little-endian 32-bit words:
//   1 ADDRESS N WORD...  write N words at successive bus addresses
//   2 ADDRESS N          read N words; they are appended to the answers
//   3 CONTROL            write CONTROL to the control register, wait for the interrupt
//   0                    end
// Any bus response other than OKAY, and a truncated file, end the run with an error on stderr.

module testbench (input wire clk, output reg finished);
  localparam CONTROL_REGISTER = 32'h0000000C;
  localparam [2:0] COMMAND = 0, WRITE = 1, WRITE_DONE = 2, READ = 3, READ_DONE = 4, START = 5,
                   WAIT = 6, END = 7;

  reg rst = 1;
  reg [31:0] awaddr = 0, wdata = 0, araddr = 0;
  reg awvalid = 0, arvalid = 0, waiting_for_run = 0;
  wire awready, wready, bvalid, arready, rvalid, interrupt;
  wire [1:0] bresp, rresp;
  wire [31:0] rdata;
  reg [2:0] state = COMMAND;
  reg [31:0] address = 0, remaining = 0, opcode = 0;
  integer commands, answers;
  string commands_path, answers_path;

  accelerator dut (
    .clk(clk), .rst(rst), .interrupt(interrupt),
    .bus__awaddr(awaddr), .bus__awvalid(awvalid), .bus__awready(awready),
    .bus__wdata(wdata), .bus__wstrb(4'hF), .bus__wvalid(awvalid), .bus__wready(wready),
    .bus__bresp(bresp), .bus__bvalid(bvalid), .bus__bready(1'b1),
    .bus__araddr(araddr), .bus__arvalid(arvalid), .bus__arready(arready),
    .bus__rdata(rdata), .bus__rresp(rresp), .bus__rvalid(rvalid), .bus__rready(1'b1)
  );

  function automatic reg [31:0] next_word();
    integer b0, b1, b2, b3;
    b0 = $fgetc(commands); b1 = $fgetc(commands); b2 = $fgetc(commands); b3 = $fgetc(commands);
    if (b3 < 0) $fatal(1, "the command file is truncated");
    next_word = {b3[7:0], b2[7:0], b1[7:0], b0[7:0]};
  endfunction

  initial begin
    finished = 0;
    if (!$value$plusargs("commands=%s", commands_path)) $fatal(1, "+commands=FILE is missing");
    if (!$value$plusargs("answers=%s", answers_path)) $fatal(1, "+answers=FILE is missing");
    commands = $fopen(commands_path, "rb");
    answers = $fopen(answers_path, "wb");
    if (commands == 0 || answers == 0) $fatal(1, "cannot open the command or answer file");
  end

  always @(posedge clk) begin
    rst <= 0;
    if (!rst) case (state)
      COMMAND: begin
        opcode = next_word();
        case (opcode)
          1, 2: begin
            address <= next_word();
            remaining <= next_word();
            state <= opcode == 1 ? WRITE : READ;
          end
          3: begin
            awaddr <= CONTROL_REGISTER; wdata <= next_word(); awvalid <= 1;
            waiting_for_run <= 1;
            state <= WRITE_DONE;
          end
          0: begin $fclose(answers); state <= END; end
          default: $fatal(1, "unknown command %0d", opcode);
        endcase
      end
      WRITE: if (remaining == 0) state <= COMMAND; else begin
        awaddr <= address; wdata <= next_word(); awvalid <= 1;
        address <= address + 4; remaining <= remaining - 1;
        state <= WRITE_DONE;
      end
      WRITE_DONE: begin
        if (awvalid && awready && wready) awvalid <= 0;
        if (bvalid) begin
          if (bresp != 0) $fatal(1, "write to %h answered %0d", awaddr, bresp);
          waiting_for_run <= 0;
          state <= waiting_for_run ? START : WRITE;
        end
      end
      START: state <= WAIT;  // the interrupt of the run before has fallen by now
      WAIT: if (interrupt) state <= COMMAND;
      READ: if (remaining == 0) state <= COMMAND; else begin
        araddr <= address; arvalid <= 1;
        address <= address + 4; remaining <= remaining - 1;
        state <= READ_DONE;
      end
      READ_DONE: begin
        if (arvalid && arready) arvalid <= 0;
        if (rvalid) begin
          if (rresp != 0) $fatal(1, "read of %h answered %0d", araddr, rresp);
          $fwrite(answers, "%c%c%c%c", rdata[7:0], rdata[15:8], rdata[23:16], rdata[31:24]);
          state <= READ;
        end
      end
      END: finished <= 1;
    endcase
  end
endmodule
