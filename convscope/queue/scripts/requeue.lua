#!lua flags=allow-oom
-- A worker lets a run go unfinished. After a crash its next attempt runs alone; a crash counts only when it was alone
-- already, with no checkpoint since (that takes the mark away). Sent twice, it finds the run waiting and leaves it.

local held = record('run', args.run)
if held and held.epoch == args.epoch and held.state == 'ended' then return held.verdict end
if held and held.epoch == args.epoch and held.state == 'queued' then return 'go-on' end
held = owned(args.run, args.epoch)
if not held then return 'fenced' end

if args.crashed == '1' then count('crashes') end
expire_members(args.run)
if settle(args.run) then return 'cancelled' end

if args.crashed == '1' then
  local at = key('run', args.run)
  if held.alone == '1' then
    local crashes = redis.call('HINCRBY', at, 'crashes', 1)
    if crashes >= tonumber(args.crash_limit) then
      crashed_out(args.run, 'The engine died ' .. crashes .. ' times on this job alone: ' .. args.reason)
      return 'cancelled'
    end
  end
  redis.call('HSET', at, 'alone', '1')
end
queue_run(args.run)
return 'go-on'
