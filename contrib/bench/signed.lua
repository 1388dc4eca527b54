-- wrk: distinct signed messages from a file of lines "signature<TAB>body". Each is sent once; whoever
-- needs that looks at `repeated`. In a body the byte 1 stands for a line break.
-- Arguments: the file, the header of the signature, the media type.
local lines = {}
local at = 0
local threads = {}
local header, media_type
repeated = 0

function setup(thread) threads[#threads + 1] = thread end

function init(args)
   local file = assert(io.open(args[1], "r"))
   for line in file:lines() do lines[#lines + 1] = line end
   file:close()
   header, media_type = args[2], args[3]
end

function request()
   at = at + 1
   if at > #lines then repeated = repeated + #lines at = 1 end
   local tab = lines[at]:find("\t", 1, true)
   return wrk.format("POST", nil, {
      ["Host"] = "127.0.0.1",
      ["Content-Type"] = media_type,
      [header] = lines[at]:sub(1, tab - 1),
   }, (lines[at]:sub(tab + 1):gsub("\1", "\r\n")))
end

function done(summary, latency)
   local again = 0
   for _, thread in ipairs(threads) do again = again + thread:get("repeated") end
   local curve = {}
   for percent = 1, 99 do
      curve[#curve + 1] = string.format("%.4f", latency:percentile(percent) / 1000)
   end
   io.write(string.format(
      '\nRESULT {"requests": %d, "seconds": %.6f, "refused": %d, "errors": %d, "repeated": %d, '
         .. '"p50_ms": %.3f, "p99_ms": %.3f, "longest_ms": %.3f, "curve_ms": [%s]}\n',
      summary.requests, summary.duration / 1e6, summary.errors.status,
      summary.errors.status + summary.errors.connect + summary.errors.read
         + summary.errors.write + summary.errors.timeout,
      again, latency:percentile(50) / 1000, latency:percentile(99) / 1000, latency.max / 1000,
      table.concat(curve, ", ")))
end
