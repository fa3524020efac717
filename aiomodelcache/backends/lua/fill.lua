-- Replaces what begins with ARGV[1] (17 bytes), and nothing else, by ARGV[2] for ARGV[3] milliseconds; by nothing
-- if that is empty. Returns 1 if it did.
if redis.pcall('GETRANGE', KEYS[1], 0, 16) ~= ARGV[1] then
  return 0
end
if ARGV[2] == '' then
  redis.call('UNLINK', KEYS[1])
  return 1
end
local stored = redis.pcall('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
if type(stored) == 'table' and stored.err then
  -- Out of memory. Without its lease the key is free for the next reader, with it nobody may fill it.
  redis.call('UNLINK', KEYS[1])
  return 0
end
return 1
