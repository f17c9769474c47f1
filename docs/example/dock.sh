#!/bin/bash
trap 'echo "$?" > .orchestrator.exit' EXIT

gdock run --receptor 2oob_A.pdb --ligand 2oob_B.pdb --restraints 933:8,936:44 -o out -n 2 &>gdock.log
