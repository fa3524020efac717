-- Reads the epoch of a partition, the first key, and the age of its stamp, the second, at the same moment.
-- ARGV[2] is stored in place of an absent epoch. The stamp must begin with ARGV[1] and expire, which shows its age.
-- Otherwise ARGV[3] is stored in its place. ARGV[4]: the lifetime of stamps in milliseconds.
-- Returns the epoch, the age of the stamp in milliseconds, and this server's clock: seconds and microseconds.
local left = redis.pcall('PTTL', KEYS[2])  -- before the clock: a stamp must not seem older than it is
local held = redis.pcall('GETRANGE', KEYS[2], 0, #ARGV[1] - 1)
if held ~= ARGV[1] or left < 0 then
  redis.pcall('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])
  left = ARGV[4]
end
local time = redis.call('TIME')
redis.pcall('SET', KEYS[1], ARGV[2], 'NX')
return {redis.pcall('GET', KEYS[1]), ARGV[4] - left, time[1], time[2]}
